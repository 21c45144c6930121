"""The networks, by name.

`MODELS` is a dict: `MODELS["mine"] = MyNet` makes a network of your own known by name, and nothing else is needed.
Where a `Classifier` is asked for, an instance of your own class will do as well, without any name.
"""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError
from linnaeus.models.convnext import convnext_base, convnext_large, convnext_small, convnext_tiny
from linnaeus.models.lenet import lenet5, lenet5_modern
from linnaeus.models.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    wide_resnet50_2,
)
from linnaeus.models.resnet_cifar import resnet20, resnet32, resnet44, resnet56, resnet110
from linnaeus.models.vit import vit_base, vit_large, vit_small, vit_tiny

MODELS: dict[str, Callable[..., Classifier]] = {
    "lenet5": lenet5,
    "lenet5_modern": lenet5_modern,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "resnext50_32x4d": resnext50_32x4d,
    "wide_resnet50_2": wide_resnet50_2,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
    "convnext_tiny": convnext_tiny,
    "convnext_small": convnext_small,
    "convnext_base": convnext_base,
    "convnext_large": convnext_large,
}


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int | None = None, **options: object
) -> Classifier:
    """Builds a network of `MODELS`, with freshly drawn weights.

    Args:
        name: a key of `MODELS`.
        num_classes: K, the number of logits.
        in_channels: C, the number of channels of an image.
        image_size: pixels; None is the network's own default.
        options: the family's options, such as `drop_path=0.1`. What makes a variant, such as its depth, is not one.

    Raises:
        RequestError: for an unknown name or option; the message has the valid ones.
        ValueError: for an option whose value the network refuses.
    """
    if name not in MODELS:
        close = get_close_matches(name, MODELS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(MODELS)}"
        raise RequestError(f"there is no model named '{name}': {hint}")
    constructor = MODELS[name]
    valid = _options(constructor)
    unknown = [option for option in options if option not in valid]
    if unknown:
        raise RequestError(f"{name} has no option {', '.join(unknown)}: its options are {', '.join(valid) or 'none'}")
    if image_size is not None:
        options["image_size"] = image_size
    return constructor(num_classes=num_classes, in_channels=in_channels, **options)


def _options(constructor: Callable[..., Classifier]) -> list[str]:
    """The keywords a user may choose: all of the signature but the contract's and those a variant has fixed."""
    fixed = constructor.keywords if isinstance(constructor, partial) else {}
    given = {"num_classes", "in_channels", "image_size", *fixed}
    return [keyword for keyword in inspect.signature(constructor).parameters if keyword not in given]
