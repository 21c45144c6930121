"""The smallest batch that is nearly as fast as the fastest, within memory, patience and the size of the set."""

import pytest
import torch

from linnaeus.core.batch import Batch
from linnaeus.engine import batch_size as module
from linnaeus.engine.batch_size import ladder, smallest_fast, time_batch_sizes

from ..faults.small import make_rule, make_state

SIZES = [16, 32, 64, 128, 256]


def batch_of(size: int) -> Batch:
    return Batch.of(torch.zeros(size, 1, 4, 4, dtype=torch.uint8), torch.arange(size) % 3, torch.arange(size))


@pytest.mark.parametrize(("images", "last"), [(5, 16), (639, 16), (640, 32), (7000, 256), (10**6, 2048)])
def test_an_epoch_has_enough_steps(images, last):
    sizes = ladder(images)
    assert sizes[-1] == last
    assert sizes == [16 * 2**step for step in range(len(sizes))]


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({16: 50.0, 32: 94.0, 64: 96.0, 128: 100.0}, 64),
        ({16: 100.0, 32: 104.0}, 16),
        ({16: 100.0, 32: 50.0}, 16),
        ({}, 16),
    ],
)
def test_the_smallest_within_a_twentieth_of_the_fastest_is_taken(speeds, chosen):
    assert smallest_fast(speeds, SIZES) == chosen


@pytest.mark.parametrize(
    ("seconds", "measured"),
    [
        ({16: 1.0, 32: 1.0, 64: 1.0, 128: 1.0, 256: 1.0}, SIZES),
        ({16: 1.0, 32: 2.0, 64: 4.0, 128: 8.0}, [16, 32, 64]),  # two doublings for nothing
        ({16: 1.0, 32: 1.9, 64: 3.5, 128: 3.6, 256: 3.7}, SIZES),
        ({16: 1.0, 32: 5.0}, [16, 32]),  # too long a step
    ],
)
def test_sizes_are_tried_as_long_as_they_can_win(monkeypatch, seconds, measured):
    monkeypatch.setattr(module, "_seconds", lambda state, batch, rule: seconds[len(batch)])
    speeds = time_batch_sizes(make_state(), batch_of, make_rule(), SIZES)
    assert list(speeds) == measured
    assert speeds[16] == 16.0


def test_a_size_that_does_not_fit_ends_the_search():
    def greedy(logits, targets, valid):
        if len(logits) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (logits.sum(1) * valid).sum()

    speeds = time_batch_sizes(make_state(), batch_of, make_rule(loss=greedy), SIZES)
    assert list(speeds) in ([16], [16, 32])
    assert all(speed > 0 for speed in speeds.values())


def test_no_weight_moves_by_more_than_statistics():
    state = make_state()
    before = state.model.head.weight.clone()
    time_batch_sizes(state, batch_of, make_rule(), [16])
    assert torch.equal(state.model.head.weight, before)
