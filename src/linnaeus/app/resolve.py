"""The defaults that depend on the images and on the network, decided once and written down in the run's config."""

from typing import Any

import torch
from torch import nn

from linnaeus.app.build import make_model
from linnaeus.app.config import Config
from linnaeus.app.prepare import Prepared
from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError

SMALL = 64
"""Sides of at most this many pixels make a set small: kept in memory, at its own size, cropped by padding."""
MEMORY_BYTES = 4 << 30
"""Largest set, decoded, that is kept in memory unasked."""

# Chosen by what a network is made of, so that they serve networks of one's own too. A learning rate is for 256 images a
# step and scales with the batch (Goyal et al. 2017).
ADAMW = {"name": "adamw", "lr": 5e-4, "weight_decay": 0.05, "clip_norm": 1.0}
SGD_NORMALISED = {"name": "sgd", "lr": 0.2, "weight_decay": 5e-4, "clip_norm": 0.0}
SGD_PLAIN = {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "clip_norm": 0.0}


def resolve(config: Config, prepared: Prepared) -> Config:
    """The configuration with every "auto" and null decided that depends on the images or the network.

    What is decided by measuring (precision, layout) stays open.

    Raises:
        RequestError: if the network does not exist or refuses its options.
    """
    shapes = prepared.audit.shapes[prepared.audit.usable]
    largest = int(shapes[:, :2].max())
    name = config.model.name if config.model.name != "auto" else "resnet20" if largest <= SMALL else "resnet18"
    size = config.model.image_size or (largest if largest <= SMALL else None)
    channels = config.model.in_channels or int(shapes[:, 2].max())
    config = config.replace(model={"name": name, "image_size": size, "in_channels": channels})
    with torch.device("meta"):
        model = make_model(config, len(prepared.classes))
    loader = config.data.loader
    if loader == "auto":
        small = largest <= SMALL and len(shapes) * model.image_size**2 * channels <= MEMORY_BYTES
        loader = "memory" if small else "files"
    crop = config.augment.crop
    if crop == "auto":
        crop = "pad" if loader == "memory" else "resized"
    if loader == "memory" and crop == "resized":
        raise RequestError("augment.crop=resized needs data.loader=files: in memory, images are already cropped")
    return config.replace(
        data={"loader": loader},
        model={"image_size": model.image_size},
        augment={"crop": crop},
        optim=_optim_defaults(config, model),
    )


def _optim_defaults(config: Config, model: Classifier) -> dict[str, Any]:
    defaults = _defaults_for(model)
    if config.optim.name not in (None, defaults["name"]):
        defaults = {**(SGD_NORMALISED if config.optim.name == "sgd" else ADAMW), "clip_norm": 0.0}
    scaled = {**defaults, "lr": defaults["lr"] * config.train.batch_size / 256}
    given = config.optim.model_dump()
    return {key: value for key, value in scaled.items() if given[key] is None}


def _defaults_for(model: Classifier) -> dict[str, Any]:
    """AdamW for networks with layer normalisation, such as ViT and ConvNeXt; SGD for the others."""
    modules = list(model.modules())
    if any(isinstance(module, nn.LayerNorm) for module in modules):
        return ADAMW
    return SGD_NORMALISED if any(isinstance(module, nn.BatchNorm2d) for module in modules) else SGD_PLAIN
