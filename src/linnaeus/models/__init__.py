"""The networks, by name: those of `MODELS`, and everyone else's as `timm:NAME` and `torchvision:NAME`.

`MODELS` is a dict: `MODELS["mine"] = MyNet` makes a network of your own known by name, and nothing else is needed.
Where a `Classifier` is asked for, an instance of your own class will do as well, without any name.
"""

import inspect
import logging
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from os import PathLike

from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError
from linnaeus.models.adapted import Adapted
from linnaeus.models.adapters import create_adapted, load_published, published_weights
from linnaeus.models.airbench import airbench94
from linnaeus.models.convnext import (
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
    convnextv2_atto,
    convnextv2_base,
    convnextv2_femto,
    convnextv2_nano,
    convnextv2_pico,
    convnextv2_tiny,
)
from linnaeus.models.download import Progress
from linnaeus.models.efficientnet_lite import efficientnet_lite0, efficientnet_lite1, efficientnet_lite2
from linnaeus.models.lenet import lenet5, lenet5_modern
from linnaeus.models.pretrained import Account, load_weights
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
from linnaeus.models.weights import PUBLISHED, Weights, find_weights

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
    "airbench94": airbench94,
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
    "convnext_tiny": convnext_tiny,
    "convnext_small": convnext_small,
    "convnext_base": convnext_base,
    "convnext_large": convnext_large,
    "convnextv2_atto": convnextv2_atto,
    "convnextv2_femto": convnextv2_femto,
    "convnextv2_pico": convnextv2_pico,
    "convnextv2_nano": convnextv2_nano,
    "convnextv2_tiny": convnextv2_tiny,
    "convnextv2_base": convnextv2_base,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite1": efficientnet_lite1,
    "efficientnet_lite2": efficientnet_lite2,
}


def create_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | None = None,
    pretrained: bool | str | PathLike[str] = False,
    **options: object,
) -> Classifier:
    """Builds a network.

    Args:
        name: a key of `MODELS`, or "timm:NAME" or "torchvision:NAME" (see `adapters`).
        num_classes: K, the number of logits.
        in_channels: C, the number of channels of an image.
        image_size: pixels; None is the network's own default.
        pretrained: False for weights drawn at random; True or "default" for the published ones; or their place: the
            path of a file or of a model's folder, an address, or "hf:owner/name". What became of each tensor is told
            to the logger "linnaeus", at level INFO.
        options: the family's options, such as `drop_path=0.1`. What makes a variant, such as its depth, is not one.

    Raises:
        RequestError: for an unknown name or option (the message has the valid ones), or weights that do not fit.
        EnvironmentFault: for weights that cannot be had, or are damaged.
        ValueError: for an option whose value the network refuses.
    """
    make: Callable[..., Classifier] = create_adapted if _is_of_others(name) else _create_own
    model = make(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
    if pretrained is not False:
        account = start_from(model, name, PUBLISHED if pretrained is True else pretrained)
        logging.getLogger("linnaeus").info("%s", account)
    return model


def describe_weights(name: str, source: str | PathLike[str]) -> Weights:
    """What is known of trained weights for a network, which are not fetched yet.

    Args:
        name: of the network.
        source: "default" for the published weights, or as `pretrained` of `create_model`.

    Raises:
        RequestError: if there are none.
        EnvironmentFault: if what a repository says of its weights cannot be had.
    """
    if source != PUBLISHED or not _is_of_others(name):
        return find_weights(name, source)
    weights = published_weights(name)
    if weights is None:
        raise RequestError(f"{name} has no published weights: train it from scratch, or choose another network")
    return weights


def start_from(
    model: Classifier, name: str, source: str | PathLike[str], *, progress: Progress | None = None
) -> Account:
    """Puts trained weights into a network that was made under `name`, in place.

    Args:
        source: as for `describe_weights`.
        progress: is told of what is fetched.

    Raises:
        RequestError: if there are none, or they do not fit.
        EnvironmentFault: if they cannot be had, or are damaged.
    """
    if isinstance(model, Adapted) and source == PUBLISHED:
        return load_published(model, name, progress=progress)
    return load_weights(model, find_weights(name, source), progress=progress)


def _is_of_others(name: str) -> bool:
    return ":" in name and name not in MODELS


def _create_own(
    name: str, *, num_classes: int, in_channels: int, image_size: int | None, **options: object
) -> Classifier:
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
