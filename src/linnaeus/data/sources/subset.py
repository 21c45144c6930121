"""Some images of another source."""

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import generator
from linnaeus.data.decode import Pixels
from linnaeus.data.sources.base import Labels, Source


class Subset:
    """The images of `source` at `indices`, renumbered from 0."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self.labels: Labels = source.labels.take(indices)

    def name(self, index: int) -> str:
        """The image's name in the whole source."""
        return self._source.name(int(self._indices[index]))

    def names(self, start: int, stop: int) -> list[str]:
        """The names of the images from `start` on, before `stop`."""
        return [self.name(index) for index in range(start, stop)]

    def stamps(self) -> NDArray[np.int64] | None:
        """As the whole source has them."""
        stamps = self._source.stamps()
        return None if stamps is None else stamps[self._indices]

    def read(self, index: int) -> bytes:
        """The raw content."""
        return self._source.read(int(self._indices[index]))

    def decode(self, content: bytes) -> Pixels:
        """As the whole source does."""
        return self._source.decode(content)


def take_per_class(source: Source, limit: int, *, seed: int) -> Subset:
    """At most `limit` images of each class in each split, drawn by a fixed seed, in the order of the source.

    Where images have several classes, an image is taken while one of its classes is short of images; a class that often
    comes with others may get more than `limit`. Images without a class count as a class of their own.
    """
    labels = source.labels
    shuffled = generator(seed, "limit").permutation(len(labels))
    taken: dict[tuple[int, str], int] = {}
    chosen = []
    for index in shuffled.tolist():
        keys = [(label, str(labels.splits[index])) for label in _labels_of(labels, index)]
        if any(taken.get(key, 0) < limit for key in keys):
            chosen.append(index)
            taken.update({key: taken.get(key, 0) + 1 for key in keys})
    return Subset(source, np.array(sorted(chosen), np.int64))


def _labels_of(labels: Labels, index: int) -> list[int]:
    if labels.targets.ndim == 1:
        return [int(labels.targets[index])]
    return np.flatnonzero(labels.targets[index]).tolist() or [-1]
