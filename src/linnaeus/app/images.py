"""The images of a run as its network will see them, and the loaders that bring them for training and evaluation."""

import os
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.app.config import AugmentConfig, Config, PreprocessConfig
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.core.batch import Loader
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess, to_channels
from linnaeus.data.augment import (
    AugmentBatch,
    Draws,
    cutout,
    erase,
    flip,
    in_turn,
    pad_crop,
    random_resized_crop,
)
from linnaeus.data.decode import Pixels
from linnaeus.data.loader import FileLoader, MemoryLoader, Order, PrepareImage
from linnaeus.data.policies import make_policy
from linnaeus.data.sources import Source

CROP_SHARE = 0.875
"""Evaluation sees the centre of a photo: this share of the shorter side, the 224 of 256 of the ResNet paper."""
PHOTO_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and std of ImageNet's colours, the field's convention for photos."""
GREY_STATISTICS = ((0.449,), (0.226,))
"""Their averages, for grey photos."""


class Images:
    """The images of a run as the network will see them, and the loaders that bring them.

    Attributes:
        preprocess: as configured; else with the statistics of the training images where these are in memory, and the
            field's for photos.
    """

    def __init__(self, config: Config, prepared: Prepared, display: Display) -> None:
        """Fits the images of all roles into memory where `data.loader` is "memory"."""
        self._config, self._prepared = config, prepared
        self.preprocess = Preprocess(_geometry(config))
        self._memory: NDArray[np.uint8] | None = None
        if config.data.loader == "memory":
            self._memory = _fit_all(prepared, self.preprocess, display)
            training = self._memory[prepared.split.indices("train")]
            measured = _with_statistics(self.preprocess.geometry, training)
            self.preprocess = Preprocess(_as_given(measured, config.preprocess))

    def training(self) -> Loader:
        """Shuffled and augmented training images."""
        train, augment = self._config.train, self._config.augment
        index = self._prepared.split.indices("train")
        order = Order(
            len(index),
            min(train.batch_size, len(index)),
            train.seed,
            repeats=augment.repeats,
            alternate_flips=augment.alternate_flips,
        )
        augment_batch = partial(in_turn, steps=_steps(augment, self.preprocess.geometry))
        if self._memory is None:
            min_area = augment.min_area if augment.crop == "resized" else None
            prepare = partial(
                _augment_image, min_area=min_area, augment_batch=augment_batch, preprocess=self.preprocess
            )
            return _file_loader(self._prepared.source, index, order, prepare, self.preprocess, self._config)
        return MemoryLoader(self._memory, self._targets, index, order=order, augment=augment_batch)

    def evaluation(self, role: str) -> Loader:
        """The images of one role, in order and as they are."""
        index = self._prepared.split.indices(role)
        if self._memory is None:
            return evaluation_loader(self._prepared.source, index, self.preprocess, self._config)
        return MemoryLoader(self._memory, self._targets, index, order=_evaluation_order(index, self._config))

    @property
    def _targets(self) -> Tensor:
        return torch.from_numpy(self._prepared.source.labels.targets)


def evaluation_loader(source: Source, index: NDArray[np.int64], preprocess: Preprocess, config: Config) -> Loader:
    """The images of `source` at `index`, in order, prepared for evaluation by worker processes."""
    prepare = partial(_fit_image, preprocess=preprocess)
    return _file_loader(source, index, _evaluation_order(index, config), prepare, preprocess, config)


def _file_loader(
    source: Source,
    index: NDArray[np.int64],
    order: Order,
    prepare: PrepareImage,
    preprocess: Preprocess,
    config: Config,
) -> Loader:
    size, workers = preprocess.geometry.image_size, config.data.workers
    return FileLoader(
        source,
        index,
        torch.from_numpy(source.labels.targets),
        order=order,
        prepare=prepare,
        shape=(preprocess.channels, size, size),
        workers=min(8, os.cpu_count() or 1) if workers is None else workers,
    )


def _geometry(config: Config) -> Geometry:
    size = config.model.image_size
    assert size is not None  # resolve() has decided it
    channels = config.model.in_channels or 3
    mean, std = PHOTO_STATISTICS if channels == 3 else (GREY_STATISTICS[0] * channels, GREY_STATISTICS[1] * channels)
    resize = size if config.data.loader == "memory" else round(size / CROP_SHARE)
    geometry = _as_given(Geometry(size, resize, mean, std), config.preprocess)
    if len(geometry.mean) != channels:
        raise RequestError(f"preprocess.mean has {len(geometry.mean)} values, and images have {channels} channels here")
    return geometry


def _as_given(geometry: Geometry, given: PreprocessConfig) -> Geometry:
    """The same geometry with what the configuration says of it."""
    settings = given.model_dump(exclude_none=True)
    changes: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
    return replace(geometry, **changes)


def _with_statistics(geometry: Geometry, images: NDArray[np.uint8]) -> Geometry:
    """The same geometry with the mean and std of (N, S, S, C) images."""
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[3])])
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum(1)
    std = np.sqrt(np.maximum(counts @ levels**2 / counts.sum(1) - mean**2, 1e-4))  # a constant channel has none
    return replace(geometry, mean=tuple(mean.round(4).tolist()), std=tuple(std.round(4).tolist()))


def _fit_all(prepared: Prepared, preprocess: Preprocess, display: Display) -> NDArray[np.uint8]:
    """(M, S, S, C) uint8: every image of the source that has a role, fitted; zeros for the others."""
    source, findings = prepared.source, prepared.audit.findings
    size = preprocess.geometry.image_size
    images = np.zeros((len(findings), size, size, preprocess.channels), np.uint8)
    usable = np.flatnonzero(prepared.split.roles != "").tolist()
    with display.bar("loading images", len(usable)) as advance:
        for index in usable:
            pixels = findings[index].pixels
            pixels = source.decode(source.read(index)) if pixels is None else pixels
            images[index] = preprocess.fit(pixels).permute(1, 2, 0).numpy()  # (C, S, S) -> (S, S, C)
            advance(1)
    return images


def _evaluation_order(index: NDArray[np.int64], config: Config) -> Order:
    return Order(len(index), min(2 * config.train.batch_size, len(index)), None)


def _steps(augment: AugmentConfig, geometry: Geometry) -> list[AugmentBatch]:
    """What happens to an image that has the network's size, in order."""
    mean = [round(255 * value) for value in geometry.mean]  # zero once it is normalised
    steps: list[AugmentBatch] = []
    if augment.crop == "pad":
        steps.append(partial(pad_crop, padding=augment.padding, mode=augment.padding_mode))
    if augment.flip:
        steps.append(flip)
    if augment.policy != "none":
        steps.append(make_policy(augment.policy, **augment.policy_options))
    if augment.cutout:
        steps.append(partial(cutout, side=augment.cutout, fill=mean))
    if augment.erase:
        fill: list[int] | Literal["noise"] = "noise" if augment.erase_fill == "noise" else mean
        steps.append(partial(erase, probability=augment.erase, fill=fill))
    return steps


def _augment_image(
    pixels: Pixels, draws: Draws, *, min_area: float | None, augment_batch: AugmentBatch, preprocess: Preprocess
) -> Tensor:
    geometry = preprocess.geometry
    if min_area is None:
        image = preprocess.fit(pixels)
    else:
        image = random_resized_crop(
            to_channels(pixels, preprocess.channels),
            draws,
            size=geometry.image_size,
            min_area=min_area,
            interpolation=geometry.interpolation,
        )
    batch = augment_batch(image.permute(1, 2, 0)[None].numpy(), draws[None])  # as (1, S, S, C)
    return torch.from_numpy(batch[0]).permute(2, 0, 1)  # (S, S, C) -> (C, S, S)


def _fit_image(pixels: Pixels, _: Draws, *, preprocess: Preprocess) -> Tensor:
    return preprocess.fit(pixels)
