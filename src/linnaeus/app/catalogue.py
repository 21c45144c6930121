"""The networks with what they cost."""

from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch.utils.flop_counter import FlopCounterMode

from linnaeus.core.errors import RequestError
from linnaeus.models import MODELS, create_model


@dataclass(frozen=True)
class Entry:
    """One network at its own image size.

    Attributes:
        parameters: with a head of `num_classes`.
        macs: multiply-accumulates of one image.
        weights: where trained weights come from.
    """

    name: str
    image_size: int
    num_classes: int
    parameters: int
    macs: int
    weights: str


def list_models(pattern: str = "*") -> list[Entry]:
    """The networks whose names match a pattern; `resnet` matches as `*resnet*`.

    Raises:
        RequestError: if none does.
    """
    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    entries = [_entry(name) for name in MODELS if fnmatch(name, wanted)]
    if not entries:
        raise RequestError(f"no model matches '{pattern}': the names are {', '.join(MODELS)}")
    return entries


def _entry(name: str) -> Entry:
    with torch.device("meta"):
        size = create_model(name, num_classes=10).image_size
        num_classes = 1000 if size > 64 else 10
        model = create_model(name, num_classes=num_classes).eval()
        image = torch.empty(1, model.in_channels, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    parameters = sum(p.numel() for p in model.parameters())
    return Entry(name, size, num_classes, parameters, counter.get_total_flops() // 2, "none yet: trained from scratch")
