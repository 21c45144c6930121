"""Both loaders bring the same images, once each, in the same order."""

from functools import partial

import numpy as np
import pytest
import torch

from linnaeus.data.augment import pad_crop
from linnaeus.data.loader import FileLoader, MemoryLoader, Order
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
    files = FileLoader(source, index, targets, order=order, prepare=prepare, shape=(3, 8, 8), workers=workers)
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
        Vanishing(IMAGES, labels),
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
