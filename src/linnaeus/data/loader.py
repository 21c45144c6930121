"""From images to batches: a loader for sets that fit in memory, and one with worker processes for files.

Both give the same images in the same order with the same draws; they differ in where the pixels wait.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from linnaeus.core.batch import Batch
from linnaeus.core.seed import draws, generator, permutation
from linnaeus.data.augment import AugmentBatch, Draws, alternate_flips, repeat
from linnaeus.data.decode import Pixels, UnreadableImage
from linnaeus.data.sources import Source

PrepareImage = Callable[[Pixels, Draws], Tensor]
"""(decoded pixels, the image's draws) -> (C, S, S) uint8."""


@dataclass(frozen=True)
class Order:
    """Which images form which batch.

    Attributes:
        num_images: N.
        batch_size: B, the largest batch.
        seed: shuffles each epoch anew; None keeps the images in order, for evaluation.
        repeats: copies of an image in an epoch, which then has as many fewer images (`augment.repeat`).
        alternate_flips: images are mirrored in every other epoch (`augment.alternate_flips`).
    """

    num_images: int
    batch_size: int
    seed: int | None
    repeats: int = 1
    alternate_flips: bool = False

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, each image in exactly one."""
        return -(-self.num_images // self.batch_size)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """(N,) positions in the set, in this epoch's global order."""
        if self.seed is None:
            return np.arange(self.num_images)
        return repeat(permutation(self.num_images, seed=self.seed, epoch=epoch), repeats=self.repeats)

    def draws(self, epoch: int, first: int, rows: NDArray[np.int64]) -> Draws:
        """(B, DRAWS), the numbers of `rows`, which stand from position `first` on in this epoch's order."""
        numbers = draws(self.seed or 0, "augment", epoch, start=first, count=len(rows))
        return alternate_flips(numbers, self._first_flips[rows], epoch=epoch) if self.alternate_flips else numbers

    @cached_property
    def _first_flips(self) -> NDArray[np.float64]:
        return generator(self.seed or 0, "flip").random(self.num_images)

    def bounds(self, number: int) -> tuple[int, int]:
        """First and last-but-one position, in the global order, of one batch.

        Batches for training differ by at most one image, for a small last batch would weigh its images more and give
        batch normalisation poor statistics. Batches for evaluation are full but for the last, to be padded.
        """
        if self.seed is None:
            return number * self.batch_size, min((number + 1) * self.batch_size, self.num_images)
        return (
            number * self.num_images // self.num_batches,
            (number + 1) * self.num_images // self.num_batches,
        )


class MemoryLoader:
    """A whole set as one uint8 array, augmented a batch at a time."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        targets: Tensor,
        index: NDArray[np.int64],
        *,
        order: Order,
        augment: AugmentBatch | None = None,
    ) -> None:
        """`images`: (M, S, S, C) uint8 and `targets`: (M, ...), of a whole source; `index`: (N,), whom to bring."""
        self._images, self._targets, self._index = images, targets, index
        self._order, self._augment = order, augment
        self.num_images, self.num_batches = order.num_images, order.num_batches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on."""
        order = self._order.rows(epoch)
        for number in range(start, self.num_batches):
            first, stop = self._order.bounds(number)
            positions = self._index[order[first:stop]]
            images = self._images[positions]
            if self._augment is not None:
                images = self._augment(images, self._order.draws(epoch, first, order[first:stop]))
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # (B, S, S, C) -> (B, C, S, S), channels last
            batch = Batch.of(pixels, self._targets[positions], torch.from_numpy(positions))
            yield batch if self._order.seed is not None else batch.pad(self._order.batch_size)


@dataclass(frozen=True)
class _Request:
    """One batch, as a worker is asked for it."""

    epoch: int
    first: int
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class _Requests:
    """The requests of one epoch; `DataLoader` reads them anew each time it is iterated."""

    order: Order
    current: list[tuple[int, int]]  # one (epoch, first batch): a list, for the persistent loader keeps this object

    def __iter__(self) -> Iterator[_Request]:
        epoch, start = self.current[0]
        rows = self.order.rows(epoch)
        for number in range(start, self.order.num_batches):
            first, stop = self.order.bounds(number)
            yield _Request(epoch, first, rows[first:stop])


@dataclass(frozen=True)
class _Files:
    """What a worker does with a request. An image that can no longer be read comes back as padding, not as another."""

    source: Source
    index: NDArray[np.int64]
    targets: Tensor
    order: Order
    prepare: PrepareImage
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return self.order.num_images

    def __getitem__(self, request: _Request) -> Batch:
        numbers = self.order.draws(request.epoch, request.first, request.rows)
        images = torch.zeros(len(request.rows), *self.shape, dtype=torch.uint8)
        images = images.contiguous(memory_format=torch.channels_last)
        valid = torch.ones(len(request.rows), dtype=torch.bool)
        positions = self.index[request.rows]
        for slot, (position, row) in enumerate(zip(positions.tolist(), numbers, strict=True)):
            try:
                images[slot] = self.prepare(self.source.decode(self.source.read(position)), row)
            except (UnreadableImage, OSError):
                valid[slot] = False
        batch = Batch.of(images, self.targets[positions], torch.from_numpy(positions))
        batch = replace(batch, valid=valid)
        return batch if self.order.seed is not None else batch.pad(self.order.batch_size)


class FileLoader:
    """Files decoded, augmented and batched by worker processes."""

    def __init__(
        self,
        source: Source,
        index: NDArray[np.int64],
        targets: Tensor,
        *,
        order: Order,
        prepare: PrepareImage,
        shape: tuple[int, int, int],
        workers: int,
    ) -> None:
        """`targets`: (M, ...), of the whole source; `index`: (N,), whom to bring; `shape`: (C, S, S)."""
        self.num_images, self.num_batches = order.num_images, order.num_batches
        self._current = [(0, 0)]
        self._loader: DataLoader[Batch] = DataLoader(
            _Files(source, index, targets, order, prepare, shape),  # type: ignore[arg-type]  # map-style by request
            batch_size=None,  # a request is a whole batch already
            sampler=_Requests(order, self._current),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on."""
        self._current[0] = (epoch, start)
        yield from self._loader


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process of a terminal; only the one that owns the state may act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
