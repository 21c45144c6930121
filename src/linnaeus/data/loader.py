"""From images to batches: a loader for sets that fit in memory, and one with worker processes for files.

Both give the same images in the same order with the same draws; they differ in where the pixels wait.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from linnaeus.core.batch import Batch
from linnaeus.core.errors import DataError, EnvironmentFault
from linnaeus.data.augment import AugmentBatch, Draws
from linnaeus.data.decode import Pixels, UnreadableImage
from linnaeus.data.order import Order
from linnaeus.data.sources import Source

ImageOf = Callable[[int], Pixels]
"""Position in the source -> decoded pixels. Raises UnreadableImage or OSError where there are none."""
PrepareImage = Callable[[Pixels, Draws], Tensor]
"""(decoded pixels, the image's draws) -> (C, S, S) uint8."""
GONE = 32
"""So many images in a row that cannot be read any more are not single files that are gone, but all of them."""
LAST_SECONDS = 10
"""So long a worker goes on after SIGTERM: the batch that is waited for comes, and the state is saved after it."""


def decoded(source: Source) -> ImageOf:
    """The images of a source as its own decoder sees them."""
    return partial(_decode, source)


def _decode(source: Source, position: int) -> Pixels:
    return source.decode(source.read(position))


class MemoryLoader:
    """A whole set as one uint8 array, augmented a batch at a time.

    Attributes:
        worked: seconds of processor time that batches have taken so far.
    """

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
        self.worked = 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on."""
        order = self._order.rows(epoch)
        for number in range(start, self.num_batches):
            began = time.thread_time()
            first, stop = self._order.bounds(number)
            positions = self._index[order[first:stop]]
            images = self._images[positions]
            if self._augment is not None:
                images = self._augment(images, self._order.draws(epoch, first, order[first:stop]))
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # (B, S, S, C) -> (B, C, S, S), channels last
            batch = Batch.of(pixels, self._targets[positions], torch.from_numpy(positions))
            self.worked += time.thread_time() - began
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
    """What a worker does with a request. An image that can no longer be read comes back as padding, not as another.

    Attributes:
        worked: (W,) seconds of processor time, a worker each; shared memory.
    """

    images: ImageOf
    index: NDArray[np.int64]
    targets: Tensor
    order: Order
    prepare: PrepareImage
    shape: tuple[int, int, int]
    worked: Tensor

    def __len__(self) -> int:
        return self.order.num_images

    def __getitem__(self, request: _Request) -> Batch:
        began = time.thread_time()
        numbers = self.order.draws(request.epoch, request.first, request.rows)
        channels, height, width = self.shape
        pixels = np.empty((len(request.rows), height, width, channels), np.uint8)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (B, S, S, C) -> (B, C, S, S), channels last
        valid = torch.ones(len(request.rows), dtype=torch.bool)
        positions = self.index[request.rows]
        for slot, (position, row) in enumerate(zip(positions.tolist(), numbers, strict=True)):
            try:
                images[slot] = self.prepare(self.images(position), row)
            except (UnreadableImage, OSError):
                images[slot], valid[slot] = 0, False
        worker = get_worker_info()
        self.worked[worker.id if worker else 0] += time.thread_time() - began
        return replace(Batch.of(images, self.targets[positions], torch.from_numpy(positions)), valid=valid)


class FileLoader:
    """Files decoded, augmented and batched by worker processes.

    Attributes:
        missing: positions of images that could no longer be read when a batch was made.
    """

    def __init__(
        self,
        images: ImageOf,
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
        self.missing: set[int] = set()
        self._order, self._gone = order, 0
        self._current = [(0, 0)]
        self._worked = torch.zeros(max(1, workers), dtype=torch.float64)
        self._worked.share_memory_()  # type: ignore[no-untyped-call]
        self._loader: DataLoader[Batch] = DataLoader(
            _Files(images, index, targets, order, prepare, shape, self._worked),  # type: ignore[arg-type]  # map-style
            batch_size=None,  # a request is a whole batch already
            sampler=_Requests(order, self._current),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def worked(self) -> float:
        """Seconds of processor time that batches have taken so far, of all workers together."""
        return float(self._worked.sum())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on.

        Raises:
            DataError: in training, if `GONE` images in a row cannot be read any more.
            EnvironmentFault: if a worker was killed.
        """
        self._current[0] = (epoch, start)
        with watched_workers():
            for batch in self._loader:
                self._count_missing(batch)
                yield batch if self._order.seed is not None else batch.pad(self._order.batch_size)

    def _count_missing(self, batch: Batch) -> None:
        if bool(batch.valid.all()):
            self._gone = 0
            return
        self.missing.update(batch.index[~batch.valid].tolist())
        for is_valid in batch.valid.tolist():
            self._gone = 0 if is_valid else self._gone + 1
            if self._gone >= GONE and self._order.seed is not None:
                raise DataError(f"{GONE} images in a row cannot be read any more: is their disk still there?")


class Watched:
    """Hands on the batches of a loader, and measures how long they were waited for.

    On a GPU the program runs ahead of the device, so that it waits for batches only where these are what is slow.

    Attributes:
        waited: seconds since the epoch, or the resumed part of it, began.
    """

    def __init__(self, loader: MemoryLoader | FileLoader) -> None:
        self.num_images, self.num_batches = loader.num_images, loader.num_batches
        self._loader = loader
        self._began = self._worked = self.waited = 0.0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's own."""
        self._began, self._worked, self.waited = time.monotonic(), self._loader.worked, 0.0
        batches = self._loader.epoch(epoch, start)
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    @property
    def wait(self) -> float:
        """Share of the time since then in which batches were waited for."""
        return self.waited / self._elapsed

    @property
    def busy(self) -> float:
        """How many cores have made batches since then, on average."""
        return (self._loader.worked - self._worked) / self._elapsed

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - self._began, 1e-9)


@contextmanager
def watched_workers() -> Iterator[None]:
    """Explains the death of a worker.

    PyTorch reports it wherever the program is at that moment; where it takes a batch, the connection may break first.

    Raises:
        EnvironmentFault: if a worker was killed.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise EnvironmentFault(
            "a process that decodes images was killed, as the system does where memory is short: free some, or set "
            "fewer data.workers"
        ) from None


def _start_worker(_: int) -> None:
    # Ctrl-C reaches every process of a terminal, and SIGTERM often a whole group: only the one that owns the state may
    # act on it. It uses SIGTERM too, on workers that do not end by themselves: so that is put off, not ignored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LAST_SECONDS))
