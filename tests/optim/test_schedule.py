"""Schedules equal those of torch and their closed forms, and refuse arguments out of range or without effect."""

from itertools import pairwise

import pytest
import torch

from linnaeus.optim.schedule import (
    SCHEDULES,
    constant,
    cosine,
    cosine_restarts,
    linear,
    one_cycle,
    polynomial,
    step,
    trapezoid,
)

every = pytest.mark.parametrize("schedule", list(SCHEDULES.values()), ids=list(SCHEDULES))
WARMED = {name: schedule for name, schedule in SCHEDULES.items() if name != "one_cycle"}
warmed = pytest.mark.parametrize("schedule", list(WARMED.values()), ids=list(WARMED))


def rates(build, steps: int) -> list[float]:
    """The learning rates that a scheduler of torch gives, from a base of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = build(optimizer)
    found = [reference.get_last_lr()[0]]
    for _ in range(steps):
        optimizer.step()
        reference.step()
        found.append(reference.get_last_lr()[0])
    return found


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_equals_torch(floor):
    reference = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=20, eta_min=floor), 20)
    ours = [cosine(epoch / 20, warmup=0.0, floor=floor) for epoch in range(21)]
    assert ours == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_polynomial_equals_torch_and_with_power_one_the_line(power):
    reference = rates(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=20, power=power), 20)
    ours = [polynomial(epoch / 20, warmup=0.0, power=power) for epoch in range(21)]
    assert ours == pytest.approx(reference, abs=1e-12)
    assert [polynomial(p / 9, warmup=0.2, floor=0.1, power=1.0) for p in range(10)] == [
        linear(p / 9, warmup=0.2, floor=0.1) for p in range(10)
    ]


def test_step_equals_torch_at_and_between_its_milestones():
    reference = rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[7, 13, 21], gamma=0.3), 30)
    places = (7 / 30, 13 / 30, 21 / 30)
    ours = [step(epoch / 30, warmup=0.0, milestones=places, gamma=0.3) for epoch in range(31)]
    assert ours == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("start", [0.04, 0.5])
def test_one_cycle_equals_torch(start):
    # Torch reaches the peak at step 0.3 * 50 - 1 and the end at step 49.
    reference = rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o,
            max_lr=1.0,
            total_steps=50,
            pct_start=0.3,
            div_factor=1 / start,
            final_div_factor=20,
            cycle_momentum=False,
        ),
        49,
    )
    ours = [one_cycle(s / 49, warmup=14 / 49, floor=start / 20, start=start) for s in range(50)]
    assert ours == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize(("t_0", "t_mult"), [(10, 1), (10, 2), (7, 3), (1, 1), (1, 2)])
def test_restarts_equal_torch_at_every_epoch_and_between_epochs(t_0, t_mult):
    epochs, eta_min = 150, 1e-3
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, t_0, T_mult=t_mult, eta_min=eta_min)
    for tick in range(epochs * 8):
        epoch = tick / 8
        reference.step(epoch)
        ours = cosine_restarts(epoch / epochs, warmup=0.0, floor=eta_min, t_0=t_0 / epochs, t_mult=t_mult)
        assert ours == pytest.approx(reference.get_last_lr()[0], rel=0, abs=1e-9), epoch


def test_restarts_under_warm_up_equal_torch_from_the_end_of_the_warm_up_on():
    # The tutorial: T_0=10, T_mult=2, eta_min=1e-6 under a linear warm-up; here of 5 epochs before 70.
    reference = rates(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=10, T_mult=2, eta_min=1e-6), 69
    )
    options = {"warmup": 5 / 75, "floor": 1e-6, "t_0": 10 / 75, "t_mult": 2}
    assert [cosine_restarts((5 + e) / 75, **options) for e in range(70)] == pytest.approx(reference, abs=1e-9)
    assert [cosine_restarts(e / 75, **options) for e in range(5)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_trapezoid_passes_its_landmarks():
    options = {"warmup": 0.1, "floor": 0.2, "cooldown": 0.4}
    heights = [trapezoid(p, **options) for p in (0.05, 0.1, 0.35, 0.6, 0.8, 1.0)]
    assert heights == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.6, 0.2])
    assert trapezoid(0.55, warmup=0.1, cooldown=0.9) == pytest.approx(linear(0.55, warmup=0.1))


def test_cosine_after_warm_up_is_the_same_half_wave_compressed():
    for t in (0.0, 0.25, 0.7, 1.0):
        assert cosine(0.2 + 0.8 * t, warmup=0.2) == pytest.approx(cosine(t, warmup=0.0), abs=1e-12)


def test_cosine_passes_its_landmarks():
    assert cosine(0.0, warmup=0.0) == 1.0
    assert cosine(0.1, warmup=0.1, floor=0.2) == 1.0
    assert cosine(0.55, warmup=0.1, floor=0.2) == pytest.approx(0.6)
    assert cosine(1.0, warmup=0.1, floor=0.2) == pytest.approx(0.2)


@warmed
def test_warm_up_is_linear_from_zero(schedule):
    assert schedule(0.0, warmup=0.2) == 0.0
    assert schedule(0.05, warmup=0.2) == pytest.approx(0.25)
    assert schedule(0.2, warmup=0.2) == 1.0


@warmed
def test_no_step_is_lost_at_either_end_when_evaluated_in_the_middle_of_steps(schedule):
    heights = [schedule((step + 0.5) / 50, warmup=0.1) for step in range(50)]
    assert min(heights) > 0
    assert heights[:5] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


@every
def test_a_schedule_is_continuous_but_for_its_steps_and_restarts(schedule):
    heights = [schedule(i / 10_000, warmup=0.3) for i in range(10_001)]
    jumps = {step: 3, cosine_restarts: 2}.get(schedule, 0)
    assert sum(abs(a - b) > 5e-3 for a, b in pairwise(heights)) == jumps


@every
def test_a_schedule_ends_at_its_floor_and_never_leaves_the_range(schedule):
    floor = 0.0 if schedule in (constant, step) else 0.2
    heights = [schedule(i / 1000, warmup=0.0, floor=floor) for i in range(1001)]
    assert all(floor <= height <= 1 for height in heights)
    if floor:
        assert [schedule(0.999999, warmup=0.0, floor=floor)] == pytest.approx([0.2], abs=1e-4)


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


@pytest.mark.parametrize("schedule", [constant, step])
def test_a_floor_that_would_be_ignored_is_refused(schedule):
    with pytest.raises(ValueError, match="has none"):
        schedule(0.5, warmup=0.0, floor=0.1)


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (step, {"milestones": [0.5, 0.5]}, "milestones are"),
        (step, {"milestones": [0.05]}, "milestones are"),
        (step, {"milestones": [1.0]}, "milestones are"),
        (step, {"milestones": []}, "milestones are"),
        (step, {"gamma": 1.0}, "gamma is"),
        (polynomial, {"power": 0.0}, "power is"),
        (cosine_restarts, {"t_0": 0.0}, "t_0 is"),
        (cosine_restarts, {"t_0": 0.95}, "t_0 is"),
        (cosine_restarts, {"t_mult": 0}, "t_mult is"),
        (cosine_restarts, {"t_mult": 1.5}, "t_mult is"),
        (one_cycle, {"start": 1.5}, "start is"),
        (trapezoid, {"cooldown": 0.0}, "cooldown is"),
        (trapezoid, {"cooldown": 0.95}, "cooldown is"),
    ],
)
def test_an_option_out_of_range_raises(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(0.5, warmup=0.1, **options)
