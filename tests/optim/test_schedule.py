"""Schedules equal torch's cosine and their closed form, and refuse arguments out of range."""

from itertools import pairwise

import pytest
import torch

from linnaeus.optim.schedule import SCHEDULES, constant, warmup_cosine

every = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=list(SCHEDULES))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_equals_torch(floor):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=floor)
    for step in range(21):
        assert warmup_cosine(step / 20, warmup=0.0, floor=floor) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def test_cosine_after_warm_up_is_the_same_half_wave_compressed():
    for t in (0.0, 0.25, 0.7, 1.0):
        assert warmup_cosine(0.2 + 0.8 * t, warmup=0.2) == pytest.approx(warmup_cosine(t, warmup=0.0), abs=1e-12)


def test_cosine_passes_its_landmarks():
    assert warmup_cosine(0.0, warmup=0.0) == 1.0
    assert warmup_cosine(0.1, warmup=0.1, floor=0.2) == 1.0
    assert warmup_cosine(0.55, warmup=0.1, floor=0.2) == pytest.approx(0.6)
    assert warmup_cosine(1.0, warmup=0.1, floor=0.2) == pytest.approx(0.2)


@every
def test_warm_up_is_linear_from_zero(schedule):
    assert schedule(0.0, warmup=0.2) == 0.0
    assert schedule(0.05, warmup=0.2) == pytest.approx(0.25)
    assert schedule(0.2, warmup=0.2) == 1.0


@every
def test_no_step_is_lost_at_either_end_when_evaluated_in_the_middle_of_steps(schedule):
    rates = [schedule((step + 0.5) / 50, warmup=0.1) for step in range(50)]
    assert min(rates) > 0
    assert rates[:5] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


@every
def test_a_schedule_is_continuous(schedule):
    rates = [schedule(i / 10_000, warmup=0.3) for i in range(10_001)]
    assert max(abs(a - b) for a, b in pairwise(rates)) < 4e-4


def test_constant_is_one_after_warm_up():
    assert {constant(p, warmup=0.1) for p in (0.1, 0.5, 1.0)} == {1.0}


@every
def test_rounding_at_the_ends_is_forgiven(schedule):
    assert schedule(-1e-12, warmup=0.0) == schedule(0.0, warmup=0.0)
    assert schedule(1 + 1e-12, warmup=0.0) == schedule(1.0, warmup=0.0)


@every
@pytest.mark.parametrize("progress", [-0.01, 1.01, float("nan")])
def test_progress_out_of_range_raises(schedule, progress):
    with pytest.raises(ValueError, match="progress is"):
        schedule(progress, warmup=0.1)


@every
@pytest.mark.parametrize("warmup", [-0.1, 1.0, float("nan")])
def test_warm_up_out_of_range_raises(schedule, warmup):
    with pytest.raises(ValueError, match="warmup is"):
        schedule(0.5, warmup=warmup)


@every
@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_floor_out_of_range_raises(schedule, floor):
    with pytest.raises(ValueError, match="floor is"):
        schedule(0.5, warmup=0.0, floor=floor)


def test_constant_refuses_a_floor_that_it_would_ignore():
    with pytest.raises(ValueError, match="the constant schedule has none"):
        constant(0.5, warmup=0.0, floor=0.1)
