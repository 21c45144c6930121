"""The defaults that depend on the images and on the network, decided once and written down in the run's config."""

import math
from typing import Any

import torch
from torch import nn

from linnaeus.app.build import make_model
from linnaeus.app.config import Config
from linnaeus.app.linear import check_head_start
from linnaeus.app.prepare import Prepared
from linnaeus.app.rules import check_rules, class_defaults
from linnaeus.core.classifier import Classifier
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.core.files import user_cache
from linnaeus.core.runtime import Task
from linnaeus.data.cache import GIB, default_budget
from linnaeus.data.fast import FastPath, best_decoder
from linnaeus.models import describe_weights
from linnaeus.models.weights import Weights

SMALL = 64
"""Sides of at most this many pixels make a set small: kept in memory, at its own size, cropped by padding."""
MEMORY_BYTES = 4 << 30
"""Largest set, decoded, that is kept in memory unasked."""
PRETRAINED = "resnet18"
"""The network where none is named and training starts from weights: those are for photos, of whatever size."""

BATCH = 64
"""Images a step for which the learning rates below are, and where the batch is to be measured and is not yet."""

# Chosen by what a network is made of, so that they serve networks of one's own too.
ADAMW = {"name": "adamw", "lr": 1.25e-4, "weight_decay": 0.05, "clip_norm": 1.0}
SGD_NORMALISED = {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4, "clip_norm": 0.0}
SGD_PLAIN = {"name": "sgd", "lr": 0.025, "weight_decay": 5e-4, "clip_norm": 0.0}
FINE_TUNING = {"sgd": 0.2, "adamw": 0.4}
"""Share of the learning rate for a network that starts from trained weights: it is near a solution, and large steps
would lose what it knows. But small sets make short runs, and in those a tenth gets less far: 0.01 and 5e-5 for a batch
of 64 are what is left."""


def starting_weights(config: Config) -> Weights | None:
    """The trained weights that the configuration asks to start from, not fetched yet; None for none.

    Raises:
        RequestError: if there are no such weights.
        EnvironmentFault: if a repository's description of its weights cannot be had.
    """
    model = config.model
    if model.weights is None:
        return None
    return describe_weights(PRETRAINED if model.name == "auto" else model.name, model.weights)


def resolve(config: Config, prepared: Prepared, weights: Weights | None = None) -> Config:
    """The configuration with every "auto" and null decided that depends on the images, the network or its weights.

    What is decided by measuring (precision, layout) stays open; a batch that is to be measured is `BATCH` for now. The
    result needs nothing of `weights` any more.

    Args:
        weights: those of `starting_weights`.

    Raises:
        RequestError: if the network does not exist or refuses its options, or the schedule or the loss does.
    """
    if config.train.batch_size == "auto":
        config = config.replace(train={"batch_size": BATCH})
    shapes = prepared.audit.shapes[prepared.audit.usable]
    largest = int(shapes[:, :2].max())
    config = config.replace(model=_model_defaults(config, largest, int(shapes[:, 2].max()), weights))
    with torch.device("meta"):
        model = make_model(config, len(prepared.classes))
    check_head_start(config, model)
    loader = config.data.loader
    if loader == "auto":
        small = largest <= SMALL and len(shapes) * model.image_size**2 * model.in_channels <= MEMORY_BYTES
        loader = "memory" if small and weights is None else "files"
    crop = config.augment.crop
    if crop == "auto":
        crop = "pad" if loader == "memory" else "resized"
    if loader == "memory" and crop == "resized":
        raise RequestError("augment.crop=resized needs data.loader=files: in memory, images are already cropped")
    resolved = config.replace(
        data={"loader": loader, **_decoding(config, loader)},
        model={"image_size": model.image_size},
        preprocess=_preprocess_defaults(config, model, weights),
        augment={"crop": crop},
        optim=_optim_defaults(config, model, prepared.task),
        train=class_defaults(config, prepared),
    )
    check_rules(resolved, prepared)
    return resolved


def _decoding(config: Config, loader: str) -> dict[str, Any]:
    """The decoder and the room for decoded images. Written down, so that a resumed run decodes as it began."""
    data, duration = config.data, Duration.parse(config.train.duration)
    if loader == "memory":
        if data.decoder != "auto" or data.cache_gib:
            raise RequestError("data.decoder and data.cache_gib have no effect with data.loader=memory: leave them out")
        return {}
    decoder = best_decoder() if data.decoder == "auto" else FastPath(data.decoder).name
    cache = data.cache_gib
    if cache is None:
        is_one = duration.unit == "ep" and duration.amount <= 1
        cache = 0.0 if is_one else round(default_budget(user_cache("images")) / GIB, 1)
    return {"decoder": decoder, "cache_gib": cache}


def _model_defaults(config: Config, largest: int, channels: int, weights: Weights | None) -> dict[str, Any]:
    model = config.model
    name, size = model.name, model.image_size
    if name == "auto":
        name = PRETRAINED if weights else "resnet20" if largest <= SMALL else "resnet18"
    if size is None and weights and weights.geometry:
        size = weights.geometry.image_size
    elif size is None and weights is None and largest <= SMALL:
        size = largest
    # Written down is where they are, and not "default", which may mean others one day; a library knows its own alone.
    source = weights.source if weights and ":" not in name else model.weights
    return {"name": name, "weights": source, "image_size": size, "in_channels": model.in_channels or channels}


def _preprocess_defaults(config: Config, model: Classifier, weights: Weights | None) -> dict[str, Any]:
    """What the weights were trained with, for this size and number of channels."""
    if weights is None or weights.geometry is None:
        return {}
    theirs = weights.geometry
    found = {
        "resize": round(model.image_size * theirs.resize / theirs.image_size),
        "mean": _for_channels(theirs.mean, model.in_channels),
        "std": _for_channels(theirs.std, model.in_channels),
        "interpolation": theirs.interpolation,
    }
    given = config.preprocess.model_dump()
    return {key: value for key, value in found.items() if given[key] is None}


def _for_channels(values: tuple[float, ...], channels: int) -> list[float]:
    """The average for grey images, or the values in turn: as the first convolution is adapted (`adapt_channels`)."""
    if channels == 1:
        return [round(sum(values) / len(values), 4)]
    return [values[i % len(values)] for i in range(channels)]


def _optim_defaults(config: Config, model: Classifier, task: Task) -> dict[str, Any]:
    defaults = _defaults_for(model)
    if config.optim.name not in (None, defaults["name"]):
        defaults = {**(SGD_NORMALISED if config.optim.name == "sgd" else ADAMW), "clip_norm": 0.0}
    share = 1.0 if config.model.weights is None else FINE_TUNING[defaults["name"]]
    scaled = {**defaults, "lr": share * defaults["lr"] * _rate(defaults["name"], config.train.images_per_step)}
    if task == "multi" and defaults["name"] == "sgd":
        # The loss is a mean over the classes, which divides each step of SGD, and not of AdamW, by their number: so a
        # ResNet-20 was left at a mAP of 39% (36 to 40) on mosaics of CIFAR-10 where this takes it to 46% (43 to 48).
        scaled |= {"lr": model.num_classes * scaled["lr"], "weight_decay": scaled["weight_decay"] / model.num_classes}
    given = config.optim.model_dump()
    return {key: value for key, value in scaled.items() if given[key] is None}


def _rate(optimizer: str, batch_size: int) -> float:
    """By how much the learning rate for `BATCH` images a step changes with their number.

    With SGD in proportion to it (Goyal et al., arXiv:1706.02677, section 2.1); with Adam, whose steps do not grow with
    the gradient, to its square root (Malladi et al., arXiv:2205.10287).
    """
    ratio = batch_size / BATCH
    return ratio if optimizer == "sgd" else math.sqrt(ratio)


def _defaults_for(model: Classifier) -> dict[str, Any]:
    """AdamW for networks with layer normalisation, such as ViT and ConvNeXt; SGD for the others."""
    modules = list(model.modules())
    if any(isinstance(module, nn.LayerNorm) for module in modules):
        return ADAMW
    return SGD_NORMALISED if any(isinstance(module, nn.BatchNorm2d) for module in modules) else SGD_PLAIN
