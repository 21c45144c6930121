"""From image files to predictions, for whatever gives the probabilities: a network in memory or an artefact."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.core.preprocess import Preprocess, to_channels
from linnaeus.core.runtime import Task
from linnaeus.data.decode import ImageLike, UnreadableImage, load_image
from linnaeus.deploy.prediction import Limits, Prediction, Row
from linnaeus.metrics.selective import confidence


class Labelling:
    """What the probabilities of an image mean, as `model.json` says: its label, or that the classifier is not sure.

    Attributes:
        task: whether an image has exactly one class.
        classes: the K names, in the order of the probabilities.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        """`about` is the content of `model.json`."""
        self.task: Task = about["task"]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self._thresholds = torch.tensor(about["thresholds"], dtype=torch.float64) if self.task == "multi" else None
        self._limits = Limits.from_json(about.get("confidence", {}))

    def activate(self, logits: Tensor) -> Tensor:
        """(B, K) calibrated logits -> (B, K) probabilities."""
        return logits.softmax(1) if self.task == "single" else logits.sigmoid()

    def predictions(self, probabilities: Tensor, familiar: Tensor | None, top: int) -> Iterator[Prediction]:
        """One for each image.

        Args:
            probabilities: (B, K) float32 on the CPU.
            familiar: (B,) of `metrics/novelty.py`; None where it is not known, and no image is called unfamiliar.
            top: how many classes to name.
        """
        sure = confidence(probabilities, self._thresholds).tolist()
        for row, own in enumerate(probabilities):
            abstained = sure[row] <= self._limits.sureness
            unfamiliar = familiar is not None and bool(familiar[row] < self._limits.familiarity)
            prediction = replace(self._prediction(own, top), abstained=abstained, unfamiliar=unfamiliar)
            yield replace(prediction, label="", labels=()) if abstained else prediction

    def _prediction(self, probabilities: Tensor, top: int) -> Prediction:
        values, indices = probabilities.topk(min(top, len(self.classes)))
        pairs = tuple((self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True))
        labels = pairs[:1] if self._thresholds is None else self._above(probabilities, self._thresholds)
        label = "|".join(name for name, _ in labels)
        return Prediction(label, pairs[0][1], pairs, labels=labels, candidates=self._candidates(probabilities))

    def _candidates(self, probabilities: Tensor) -> tuple[str, ...]:
        """The most probable class, and all that reach the threshold of sets, the most probable first."""
        if self._limits.candidates is None:
            return ()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        values = probabilities.tolist()
        return tuple(self.classes[k] for i, k in enumerate(order) if i == 0 or values[k] >= self._limits.candidates)

    def _above(self, probabilities: Tensor, thresholds: Tensor) -> tuple[tuple[str, float], ...]:
        """The classes that reach their thresholds, the most probable first."""
        values = probabilities.tolist()
        said = (probabilities.double() >= thresholds).nonzero()[:, 0].tolist()
        return tuple((self.classes[k], values[k]) for k in sorted(said, key=lambda k: (-values[k], k)))


def read_rows(
    images: Iterable[ImageLike],
    preprocess: Preprocess,
    rows_of: Callable[[Tensor], Iterable[Row]],
    *,
    batch_size: int,
) -> Iterator[Row]:
    """A row for each image, in order, a batch at a time; one that cannot be read has a prediction with its `error`.

    Args:
        rows_of: (B, C, S, S) uint8, as `preprocess.fit` makes them, in memory pixel by pixel -> B rows.
    """
    source = iter(images)
    # Decoding and resizing release the interpreter. Not beside the answers: they take all cores themselves, and PyTorch
    # slows down out of proportion where something else runs on one of them.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), initializer=partial(torch.set_num_threads, 1)) as pool:
        while chunk := list(islice(source, batch_size)):
            fitted = list(pool.map(partial(_try, preprocess.fit), chunk))
            good = [image for image in fitted if isinstance(image, Tensor)]
            computed = iter(rows_of(_stack(good)) if good else ())
            for image in fitted:
                yield next(computed) if isinstance(image, Tensor) else Row(Prediction("", 0.0, (), image))


def read_whole(images: Iterable[ImageLike], channels: int, row_of: Callable[[NDArray[np.uint8]], Row]) -> Iterator[Row]:
    """As `read_rows`, of images at their own sizes, one at a time.

    Args:
        channels: C.
        row_of: (H, W, C) uint8 -> its row.
    """

    def upright(pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(to_channels(pixels, channels))

    for image in images:
        found = _try(upright, image)
        yield Row(Prediction("", 0.0, (), found)) if isinstance(found, str) else row_of(found.numpy())


def _stack(images: list[Tensor]) -> Tensor:
    """B times (C, S, S) -> (B, C, S, S) in the order of bytes that the images have after resizing: pixel by pixel."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _try(prepare: Callable[[NDArray[np.uint8]], Tensor], image: ImageLike) -> Tensor | str:
    """The prepared image, or the reason why there is none."""
    try:
        return prepare(load_image(image))
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
