"""The images of a run as its network will see them, and the loaders that bring them for training and evaluation."""

import os
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.app.config import AugmentConfig, Config, DataConfig, PreprocessConfig
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.core.batch import Loader
from linnaeus.core.errors import LinnaeusError, RequestError
from linnaeus.core.files import user_cache
from linnaeus.core.preprocess import Geometry, Preprocess, to_channels
from linnaeus.data.augment import (
    AugmentBatch,
    Draws,
    crop_box,
    cutout,
    erase,
    flip,
    in_turn,
    pad_crop,
)
from linnaeus.data.cache import GIB, BoundedImages, Plan, open_cache
from linnaeus.data.decode import Pixels
from linnaeus.data.fast import FastPath, best_decoder, bound_for, bounded_shapes, has_extra
from linnaeus.data.loader import FileLoader, ImageOf, MemoryLoader, PrepareImage, Watched, decoded
from linnaeus.data.order import Order
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
        self._config, self._prepared, self._display = config, prepared, display
        self._missing: list[set[int]] = []  # those of each loader
        self.preprocess = Preprocess(_geometry(config))
        self._memory: NDArray[np.uint8] | None = None
        if config.data.loader == "memory":
            self._memory = _fit_all(prepared, self.preprocess, display)
            training = self._memory[prepared.split.indices("train")]
            measured = _with_statistics(self.preprocess.geometry, training)
            self.preprocess = Preprocess(_as_given(measured, config.preprocess))

    def training(self) -> Watched:
        """Shuffled and augmented training images."""
        train, augment = self._config.train, self._config.augment
        index, labels = self._prepared.split.indices("train"), self._prepared.source.labels
        order = Order(
            len(index),
            min(train.images_per_step, len(index)),
            train.seed,
            repeats=augment.repeats,
            alternate_flips=augment.alternate_flips,
            shards=None if labels.shards is None else labels.shards[index],
            classes=labels.targets[index].astype(np.int64) if self._config.data.balance else None,
        )
        augment_batch = partial(in_turn, steps=_steps(augment, self.preprocess.geometry))
        if self._memory is not None:
            return Watched(MemoryLoader(self._memory, self._targets, index, order=order, augment=augment_batch))
        prepare = partial(
            _augment_image,
            fast=self._bounded.fast,
            min_area=augment.min_area if augment.crop == "resized" else None,
            augment_batch=augment_batch,
            preprocess=self.preprocess,
        )
        return Watched(self._file_loader(self._bounded, index, order, prepare))

    def evaluation(self, role: str) -> Loader:
        """The images of one role, in order and as they are."""
        return self.shown(self._prepared.split.indices(role))

    def shown(self, index: NDArray[np.int64]) -> Loader:
        """The images at `index`, in order and as they are."""
        order = _evaluation_order(index, self._config)
        if self._memory is not None:
            return MemoryLoader(self._memory, self._targets, index, order=order)
        prepare = partial(_fit_image, preprocess=self.preprocess)
        return self._file_loader(decoded(self._prepared.source), index, order, prepare)

    def under(self, config: Config) -> "Images":
        """The same images, already at hand, for a configuration that shows them to the network alike."""
        other = Images.__new__(Images)  # without what is kept of them, which depends on how they are cropped
        vars(other).update({name: value for name, value in vars(self).items() if name != "_bounded"})
        other._config, other._missing, other._display = config, [], Display(quiet=True)
        return other

    @property
    def missing(self) -> list[int]:
        """Positions of the images that could no longer be read when they were wanted."""
        return sorted(set().union(*self._missing))

    def remarks(self, limit: int = 3) -> list[str]:
        """What a person should know of the images after they were used, in lines."""
        lines, source = [], self._prepared.source
        cache = None if self._memory is not None else self._bounded.cache
        if cache is not None and cache.full:
            lines.append("not all decoded images could be kept: the disk is full, or cannot be written")
        if missing := self.missing:
            shown = "; ".join(f"{source.name(index)} ({_reason(source, index)})" for index in missing[:limit])
            more = f"; and {len(missing) - limit:,} more" if len(missing) > limit else ""
            count = f"{len(missing):,} of {len(source.labels):,} images"
            lines.append(f"left out, since they could no longer be read: {count}: {shown}{more}")
        return lines

    @cached_property
    def _bounded(self) -> BoundedImages:
        """The images as training sees them, decoded fast and kept."""
        config, audit = self._config, self._prepared.audit
        geometry, data = self.preprocess.geometry, config.data
        # Where no random part is taken, twice as many pixels as are wanted, for `Preprocess.fit` to make its own of.
        is_cropped = config.augment.crop == "resized"
        target = (geometry.image_size, config.augment.min_area) if is_cropped else (geometry.resize, 0.5)
        bound = bound_for(*target)
        fast = FastPath(best_decoder() if data.decoder == "auto" else data.decoder)
        cache = None
        if data.cache_gib:
            plan = Plan(audit.digests, bounded_shapes(audit.shapes, bound))
            made_by, budget = f"{fast.describe()}, bound {bound}", int(data.cache_gib * GIB)
            cache, note = open_cache(user_cache("images"), made_by, plan, budget=budget)
            self._display.say(note)
        return BoundedImages(self._prepared.source, fast, bound, cache)

    def _file_loader(
        self, images: ImageOf, index: NDArray[np.int64], order: Order, prepare: PrepareImage
    ) -> FileLoader:
        loader = _file_loader(images, index, self._targets, order, prepare, self.preprocess, self._config.data)
        self._missing.append(loader.missing)
        return loader

    @property
    def _targets(self) -> Tensor:
        return torch.from_numpy(self._prepared.source.labels.targets)


def evaluation_loader(source: Source, index: NDArray[np.int64], preprocess: Preprocess, config: Config) -> Loader:
    """The images of `source` at `index`, in order, prepared for evaluation by worker processes."""
    prepare = partial(_fit_image, preprocess=preprocess)
    order, targets = _evaluation_order(index, config), torch.from_numpy(source.labels.targets)
    return _file_loader(decoded(source), index, targets, order, prepare, preprocess, config.data)


def _file_loader(
    images: ImageOf,
    index: NDArray[np.int64],
    targets: Tensor,
    order: Order,
    prepare: PrepareImage,
    preprocess: Preprocess,
    config: DataConfig,
) -> FileLoader:
    size = preprocess.geometry.image_size
    shape = (preprocess.channels, size, size)
    return FileLoader(images, index, targets, order=order, prepare=prepare, shape=shape, workers=_workers(config))


def _workers(config: DataConfig) -> int:
    return min(8, os.cpu_count() or 1) if config.workers is None else config.workers


def explain_wait(config: DataConfig, busy: float) -> str:
    """What keeps training waiting for images, and what helps.

    Args:
        busy: how many cores made batches, on average (`Watched.busy`).
    """
    workers, cores = _workers(config), os.cpu_count() or 1
    if config.loader == "memory":
        return "augmenting them in memory is slow; a simpler augment.policy helps"
    if workers == 0:
        return f"they are decoded between the steps; data.workers={min(8, cores)} helps"
    if busy < 0.5 * max(1, min(workers, cores - 1)):
        return "they are slow to read; a copy on a faster disk helps, or a larger data.cache_gib"
    if workers < cores:
        return f"decoding on {workers} of {cores} cores is slow; data.workers={cores} helps"
    helps = ["smaller files"]
    if not config.cache_gib:
        helps.insert(0, "a data.cache_gib above 0 from the second epoch on")
    if config.decoder == "pillow":
        helps.insert(0, "data.decoder=fast" if has_extra() else "pip install 'linnaeus[fast-data]'")
    return f"decoding on {cores} cores is slow; what helps: {', '.join(helps)}"


def _reason(source: Source, index: int) -> str:
    try:
        source.decode(source.read(index))
    except (OSError, LinnaeusError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "it can be read again"


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
    source, size = prepared.source, preprocess.geometry.image_size
    images = np.zeros((len(source.labels), size, size, preprocess.channels), np.uint8)
    usable = np.flatnonzero(prepared.split.roles != "").tolist()
    with display.bar("loading images", len(usable)) as advance:
        for index in usable:
            pixels = prepared.audit.pixels.get(index)
            pixels = source.decode(source.read(index)) if pixels is None else pixels
            images[index] = preprocess.fit(pixels).permute(1, 2, 0).numpy()  # (C, S, S) -> (S, S, C)
            advance(1)
    return images


def _evaluation_order(index: NDArray[np.int64], config: Config) -> Order:
    return Order(len(index), min(2 * config.train.images_per_step, len(index)), None)


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
    pixels: Pixels,
    draws: Draws,
    *,
    fast: FastPath,
    min_area: float | None,
    augment_batch: AugmentBatch,
    preprocess: Preprocess,
) -> Tensor:
    geometry = preprocess.geometry
    if min_area is None:
        writable = pixels if pixels.flags.writeable else pixels.copy()  # as torch wants; what is cached is not
        image = preprocess.fit(writable).permute(1, 2, 0).numpy()  # (C, S, S) -> (S, S, C)
    else:
        box = crop_box(pixels.shape[0], pixels.shape[1], draws, min_area=min_area)
        crop = fast.crop(pixels, box, (geometry.image_size, geometry.image_size), geometry.interpolation)
        image = to_channels(crop, preprocess.channels)
    batch = augment_batch(image[None], draws[None])  # as (1, S, S, C)
    return torch.from_numpy(batch[0]).permute(2, 0, 1)  # (S, S, C) -> (C, S, S)


def _fit_image(pixels: Pixels, _: Draws, *, preprocess: Preprocess) -> Tensor:
    return preprocess.fit(pixels)
