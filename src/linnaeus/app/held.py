"""The images that an export needs: some to calibrate with, some to choose by, and those that the gate judges on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.app.config import Config, make_config
from linnaeus.app.evaluate import match_model, other_images, own_images, with_small_batches
from linnaeus.app.images import evaluation_loader
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.errors import DataError, RequestError
from linnaeus.core.preprocess import to_channels
from linnaeus.core.seed import generator
from linnaeus.data.doctor import audit
from linnaeus.data.loader import watched_workers
from linnaeus.data.sources import Columns, Source
from linnaeus.data.sources.subset import Subset
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.formats.base import Pixels
from linnaeus.deploy.gate import Held

MOST = 4096
"""Images that the gate judges on at most: 600 MB at 224 pixels."""
CALIBRATION, CHOOSING, TUNING = 128, 512, 2048


class HeldImages:
    """The images of an export, read when they are first asked for."""

    def __init__(self, folder: Path, bundle: Bundle, data: str | None, display: Display) -> None:
        """
        Args:
            folder: of a run; or of a model, and then `data` is given.
            data: other images to judge on; by default the run's test images.
        """
        self._folder, self._bundle, self._data, self._display = folder, bundle, data, display
        if data is None and not _is_run(folder):
            raise RequestError(f"{folder} is a model without its run: give images to judge the artefacts on by --data")

    def judging(self) -> Held:
        """Those that the gate judges on."""
        if self._data is None:
            source, what = own_images(Run(self._folder), "test", self._display)
            config = Run(self._folder).read_config()
        else:
            source, what = other_images(self._data, Columns(), None, self._display)
            config = make_config({"data": {"source": self._data}})
        return self._held(source, what, config, MOST)

    def choosing(self) -> Held:
        """Those that layers are chosen by: the run's val images, none of which the gate sees."""
        source, what = own_images(self._run("8-bit layers are chosen by its val images"), "val", self._display)
        return self._held(source, what, Run(self._folder).read_config(), CHOOSING)

    def calibration(self) -> Pixels:
        """(N, S, S, C) uint8: training images, as many of each class as can be."""
        return self._training("8-bit ranges are measured on its training images", CALIBRATION, "calibration images")

    def tuning(self) -> Pixels:
        """(N, S, S, C) uint8: more training images, as calibration sees them, for weights to be tuned on."""
        return self._training("--qat trains on its training images", TUNING, "training images")

    def _training(self, why: str, most: int, what: str) -> Pixels:
        run = self._run(why)
        source, _ = own_images(run, "train", self._display)
        images, _ = self._read(Subset(source, _of_each_class(source, most)), run.read_config(), what)
        return images

    def _run(self, why: str) -> Run:
        if not _is_run(self._folder):
            raise RequestError(f"{self._folder} is a model without its run: give the folder of the run, since {why}")
        return Run(self._folder)

    def _held(self, source: Source, what: str, config: Config, most: int) -> Held:
        bundle = self._bundle
        source = match_model(source, bundle, what, self._display)
        number = len(source.labels)
        if number > most:
            chosen = np.sort(generator(0, "gate").permutation(number)[:most])
            source, what = Subset(source, chosen), f"{most:,} of the {number:,} {what}"
        images, kept = self._read(source, config, what)
        channels = bundle.preprocess.channels

        def whole(row: int) -> Pixels:
            return to_channels(source.decode(source.read(int(kept[row]))), channels)

        targets = source.labels.targets[kept]
        truths = targets.astype(bool) if bundle.task == "multi" else np.arange(len(bundle.classes)) == targets[:, None]
        parts = torch.split(torch.from_numpy(images).permute(0, 3, 1, 2), 32)  # (N, S, S, C) -> (N, C, S, S)
        with self._display.bar("asking the network", len(images)) as advance:
            expected = [_told(bundle.probabilities(part.contiguous()), advance) for part in parts]
        thresholds = tuple(bundle.about["thresholds"]) if bundle.task == "multi" else None
        return Held(what, images, truths, torch.cat(expected).numpy(), thresholds, whole)

    def _read(self, source: Source, config: Config, what: str) -> tuple[Pixels, NDArray[np.int64]]:
        """The prepared images that can be read, and which these are."""
        with self._display.bar(f"checking {what}", len(source.labels)) as advance:
            usable = audit(source, keep_below=0, progress=advance).usable
        if not len(usable):
            raise DataError(f"none of the {len(source.labels)} {what} can be read")
        loader = evaluation_loader(source, usable, self._bundle.preprocess, with_small_batches(config))
        images, kept = [], []
        with watched_workers(), self._display.bar(f"reading {what}", loader.num_images) as advance:
            for batch in loader.epoch(0):
                own = batch.images[batch.valid].permute(0, 2, 3, 1)  # (B, C, S, S) -> (B, S, S, C)
                images.append(own.contiguous())
                kept.append(batch.index[batch.valid])
                advance(len(kept[-1]))
        return torch.cat(images).numpy(), torch.cat(kept).numpy()


def _told(probabilities: torch.Tensor, advance: Callable[[int], None]) -> torch.Tensor:
    advance(len(probabilities))
    return probabilities


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _of_each_class(source: Source, most: int) -> NDArray[np.int64]:
    """Positions of at most so many images: at random, and of one class an image as many of each as can be."""
    order = generator(0, "calibration").permutation(len(source.labels))
    targets = source.labels.targets[order]
    if targets.ndim == 1:  # the first of each class, then the second of each, ...
        turns = np.zeros(len(order), np.int64)
        for label in np.unique(targets):
            own = np.flatnonzero(targets == label)
            turns[own] = np.arange(len(own))
        order = order[np.argsort(turns, kind="stable")]
    return np.sort(order[:most])
