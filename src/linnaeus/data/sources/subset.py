"""Some images of another source."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import generator
from linnaeus.data.decode import Pixels
from linnaeus.data.sources.base import Labels, Source


class Subset:
    """The images of `source` at `indices`, renumbered from 0."""

    def __init__(self, source: Source, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        labels = source.labels
        self.labels: Labels = replace(labels, targets=labels.targets[indices], splits=labels.splits[indices])

    def name(self, index: int) -> str:
        """The image's name in the whole source."""
        return self._source.name(int(self._indices[index]))

    def read(self, index: int) -> bytes:
        """The raw content."""
        return self._source.read(int(self._indices[index]))

    def decode(self, content: bytes) -> Pixels:
        """As the whole source does."""
        return self._source.decode(content)


def take_per_class(source: Source, limit: int, *, seed: int) -> Subset:
    """At most `limit` images of each class in each split, drawn by a fixed seed, in the order of the source."""
    labels = source.labels
    shuffled = generator(seed, "limit").permutation(len(labels))
    taken: dict[tuple[int, str], int] = {}
    chosen = []
    for index in shuffled.tolist():
        key = (int(labels.targets[index]), str(labels.splits[index]))
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= limit:
            chosen.append(index)
    return Subset(source, np.array(sorted(chosen), np.int64))
