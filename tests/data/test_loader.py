"""Both loaders bring the same images, once each, in the same order."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from linnaeus.core.errors import DataError, EnvironmentFault
from linnaeus.data.augment import pad_crop
from linnaeus.data.loader import GONE, FileLoader, MemoryLoader, Watched, decoded, watched_workers
from linnaeus.data.order import Order
from linnaeus.data.sources.animals import ArraySource
from linnaeus.data.sources.base import Labels

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), np.uint8)


def loaders(order: Order, workers: int = 0):
    labels = Labels(("a", "b"), np.arange(50) % 2, np.full(50, ""))
    index, targets = np.arange(3, 45), torch.from_numpy(labels.targets)
    augment = partial(pad_crop, padding=2) if order.seed is not None else None

    def prepare(pixels, row):
        image = pixels[None] if augment is None else augment(pixels[None], row[None])
        return torch.from_numpy(image[0]).permute(2, 0, 1)

    memory = MemoryLoader(IMAGES, targets, index, order=order, augment=augment)
    source = ArraySource(IMAGES, labels)
    files = FileLoader(decoded(source), index, targets, order=order, prepare=prepare, shape=(3, 8, 8), workers=workers)
    return memory, files


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [None, 5])
def test_both_loaders_bring_the_same_batches(seed, workers):
    memory, files = loaders(Order(42, 8, seed), workers)
    for ours, theirs in zip(memory.epoch(1), files.epoch(1), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.targets, theirs.targets)
        assert torch.equal(ours.index, theirs.index)
        assert torch.equal(ours.valid, theirs.valid)


@pytest.mark.parametrize("seed", [None, 5])
def test_every_image_comes_once_an_epoch(seed):
    memory, _ = loaders(Order(42, 8, seed))
    batches = list(memory.epoch(0))
    assert len(batches) == memory.num_batches == 6
    seen = torch.cat([batch.index[batch.valid] for batch in batches])
    assert sorted(seen.tolist()) == list(range(3, 45))


def test_training_batches_differ_by_one_image_at_most():
    memory, _ = loaders(Order(42, 8, 5))
    assert {len(batch) for batch in memory.epoch(0)} == {7}
    sizes = [stop - first for first, stop in (Order(50_000, 128, 0).bounds(n) for n in range(391))]
    assert sum(sizes) == 50_000
    assert {*sizes} == {127, 128}


def test_an_epoch_can_start_anywhere():
    for loader in loaders(Order(42, 8, 5)):
        whole, rest = list(loader.epoch(3)), list(loader.epoch(3, start=4))
        assert len(rest) == 2
        assert all(torch.equal(a.images, b.images) for a, b in zip(whole[4:], rest, strict=True))


def test_a_file_that_vanished_is_padding():
    class Vanishing(ArraySource):
        def read(self, index: int) -> bytes:
            if index == 7:
                raise FileNotFoundError(index)
            return super().read(index)

    labels = Labels(("a", "b"), np.arange(50) % 2, np.full(50, ""))
    loader = FileLoader(
        decoded(Vanishing(IMAGES, labels)),
        np.arange(50),
        torch.from_numpy(labels.targets),
        order=Order(50, 10, None),
        prepare=lambda pixels, _: torch.from_numpy(pixels).permute(2, 0, 1),
        shape=(3, 8, 8),
        workers=0,
    )
    batches = list(loader.epoch(0))
    missing = [int(i) for batch in batches for i in batch.index[~batch.valid]]
    assert missing == [7]
    assert loader.missing == {7}


def gone(batch_size: int, seed: int | None, first: int) -> FileLoader:
    """A loader of 50 images of which all from `first` on are gone."""

    def read(position: int) -> np.ndarray:
        if position >= first:
            raise FileNotFoundError(position)
        return IMAGES[position]

    return FileLoader(
        read,
        np.arange(50),
        torch.zeros(50, dtype=torch.int64),
        order=Order(50, batch_size, seed),
        prepare=lambda pixels, _: torch.from_numpy(pixels).permute(2, 0, 1),
        shape=(3, 8, 8),
        workers=0,
    )


@pytest.mark.parametrize("batch_size", [1, 8, 50])
def test_training_stops_where_all_files_are_gone_and_not_where_some_are(batch_size):
    with pytest.raises(DataError, match=f"{GONE} images in a row cannot be read any more"):
        list(gone(batch_size, 0, first=0).epoch(0))
    some = gone(batch_size, 0, first=50 - GONE // 2)
    assert sum(len(batch) for batch in some.epoch(0)) == 50
    assert some.missing == {*range(50 - GONE // 2, 50)}


def test_evaluation_counts_what_is_gone_apart_from_padding():
    loader = gone(8, None, first=10)
    batches = list(loader.epoch(0))
    assert {len(batch) for batch in batches} == {8}
    assert torch.cat([batch.index[batch.valid] for batch in batches]).tolist() == [*range(10)]
    assert loader.missing == {*range(10, 50)}


def test_the_share_of_time_that_is_waited_for_batches_is_measured(monkeypatch):
    class Slow:
        """Takes two seconds for a batch, on a clock of our own."""

        num_images, num_batches, worked = 42, 6, 0.0

        def epoch(self, epoch: int, start: int = 0):
            for batch in loaders(Order(42, 8, 5))[0].epoch(epoch, start):
                clock[0] += 2
                yield batch

    clock = [100.0]
    monkeypatch.setattr("linnaeus.data.loader.time.monotonic", lambda: clock[0])
    watched = Watched(Slow())
    for epoch, seconds in enumerate([3, 1]):  # each epoch is measured anew
        for _ in watched.epoch(epoch):
            clock[0] += seconds
        assert watched.waited == 12
        assert watched.wait == 2 / (2 + seconds)


def test_the_work_of_all_workers_is_measured():
    def prepare(pixels, _):
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass
        return torch.from_numpy(pixels).permute(2, 0, 1)

    for workers in (0, 2):
        files = FileLoader(
            IMAGES.__getitem__,
            np.arange(50),
            torch.zeros(50),
            order=Order(50, 10, 0),
            prepare=prepare,
            shape=(3, 8, 8),
            workers=workers,
        )
        watched = Watched(files)
        list(watched.epoch(0))
        assert 0.1 <= files.worked < 0.3
        assert 0 < watched.busy <= max(1, workers) * 1.1


def test_the_death_of_a_worker_is_explained_and_other_errors_are_left_alone():
    for death in (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), ConnectionResetError(104)):
        with pytest.raises(EnvironmentFault, match="a process that decodes images was killed"), watched_workers():
            raise death
    with pytest.raises(RuntimeError, match="shapes"), watched_workers():
        raise RuntimeError("shapes do not fit")


def test_a_worker_that_is_killed_is_noticed():
    def die(pixels, _):
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)

    loader = FileLoader(
        IMAGES.__getitem__,
        np.arange(50),
        torch.zeros(50),
        order=Order(50, 10, 0),
        prepare=die,
        shape=(3, 8, 8),
        workers=1,
    )
    with pytest.raises(EnvironmentFault, match="a process that decodes images was killed"):
        list(loader.epoch(0))
