"""What every source of images offers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What a folder of a split is called, in any case."""


class Bar(Protocol):
    """Shows how far a long piece of work is; the block gets a function of how much more is done, for any thread."""

    def __call__(self, what: str, total: int, *, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        """`total`: how much there is to do, in `unit`: "bytes", or how things are called."""


@contextmanager
def no_bar(what: str, total: int, *, unit: str) -> Iterator[Callable[[int], None]]:  # noqa: ARG001  # as a `Bar`
    """A `Bar` that shows nothing."""
    yield lambda _: None


@dataclass(frozen=True)
class Facet:
    """One more thing that a source says of each image, such as the hospital or the camera.

    Attributes:
        values: the different values, in the order in which they first appear.
        codes: (N,) int32, positions in `values`.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class Labels:
    """What is known of N images before any of them is opened.

    Attributes:
        classes: K names, in the order of the labels.
        targets: (N,) int64, positions in `classes`; or (N, K) uint8, 1 for each class that an image has, where images
            have several classes or none.
        splits: (N,) str, "train", "val" or "test", or "" where the source does not say.
        ignored: what was seen and not taken, for the record: files that are no images, rows that cannot be used.
        extra: further columns of a table, by name.
        notes: what was found out rather than told, in lines for a person: which column is which, that images have
            several classes.
        shards: (N,) int32, equal for images that are brought together, as by the shard over a network; None where any
            order of reading is as good.
    """

    classes: tuple[str, ...]
    targets: NDArray[np.int64] | NDArray[np.uint8]
    splits: NDArray[np.str_]
    ignored: tuple[str, ...] = ()
    extra: Mapping[str, Facet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shards: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def task(self) -> Literal["single", "multi"]:
        """Whether an image has exactly one class, or any number of them."""
        return "single" if self.targets.ndim == 1 else "multi"

    def counts(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
        """(K,) images of each class among those at `rows`: positions, or (N,) bool."""
        targets = self.targets[rows]
        if self.task == "single":
            return np.bincount(targets, minlength=len(self.classes))
        counts: NDArray[np.int64] = targets.sum(0, dtype=np.int64)
        return counts

    def text(self, index: int) -> str:
        """The classes of one image as a cell of a table: `cat`, or `cat|dog` where images may have several."""
        if self.targets.ndim == 1:
            return self.classes[int(self.targets[index])]
        return "|".join(self.classes[label] for label in np.flatnonzero(self.targets[index]))

    def take(self, rows: NDArray[np.int64]) -> "Labels":
        """The labels of some images, in the order of `rows`."""
        extra = {name: Facet(facet.values, facet.codes[rows]) for name, facet in self.extra.items()}
        shards = None if self.shards is None else self.shards[rows]
        return replace(self, targets=self.targets[rows], splits=self.splits[rows], extra=extra, shards=shards)


class Source(Protocol):
    """N images by position. Cheap to send to a worker process; holds no open file."""

    labels: Labels

    def name(self, index: int) -> str:
        """What a person calls the image: its path relative to the source, or its number. No two images share it."""

    def names(self, start: int, stop: int) -> list[str]:
        """`name` of the images from `start` on, before `stop`: for all of very many, some thousand at a time."""

    def stamps(self) -> NDArray[np.int64] | None:
        """(N, 2) a length and a time of change (ns) for each image: as long as they stay, so does the image.

        They are those of the file that holds it. A length of -1 where there is none any more, or nothing tells; None
        where nothing tells of any image.
        """

    def read(self, index: int) -> bytes:
        """The raw content, whose hash tells exact copies. Safe to call from several threads.

        Raises:
            OSError: if it cannot be read.
        """

    def decode(self, content: bytes) -> Pixels:
        """What `read` returned -> (H, W, 1 or 3) uint8, upright.

        Raises:
            UnreadableImage: with the reason.
        """
