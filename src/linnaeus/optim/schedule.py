"""Schedules: pure functions from the progress of a run to a multiplier of the base learning rate.

Progress is in [0, 1]. A caller with steps evaluates at the middle of each, `(step + 0.5) / steps`: the first step then
has a positive rate, the last one does not stop at the floor, and the mean over the steps is that of the curve.

All of them rise linearly from 0 at the start to 1 at `warmup`, but for `one_cycle`, whose rise is its own. Lengths and
places are shares of the whole run. Arguments that every schedule has:

    progress: in [0, 1].
    warmup: the share of the run that warms up, in [0, 1); 0 for none.
    floor: the multiplier that is left at the end, in [0, 1].

An argument outside its range raises a ValueError, and so does one that would have no effect.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, pi
from typing import Protocol

# Progress is a quotient of times or counts and may miss a boundary by rounding.
ROUNDING = 1e-9


class Schedule(Protocol):
    """What every entry of `SCHEDULES` is; some have keywords of their own besides."""

    def __call__(self, progress: float, *, warmup: float, floor: float = 0.0) -> float:
        """The multiplier at `progress`."""


def constant(progress: float, *, warmup: float, floor: float = 0.0) -> float:
    """1 after the warm-up. `floor` must stay 0: this schedule never falls."""
    progress = _checked(progress, warmup, floor)
    _check_no_floor(floor, "constant")
    return _rise(progress, warmup)


def step(
    progress: float,
    *,
    warmup: float,
    floor: float = 0.0,
    milestones: Sequence[float] = (1 / 3, 2 / 3, 8 / 9),
    gamma: float = 0.1,
) -> float:
    """After the warm-up 1, and `gamma` times as much from each of the milestones on; torch's `MultiStepLR`.

    Args:
        progress, warmup: see the top of this file.
        floor: must stay 0: what is left at the end is a power of gamma.
        milestones: rising, each after the warm-up and before 1. By default epochs 30, 60 and 80 of 90, as for
            torchvision's ResNets.
        gamma: in (0, 1).
    """
    progress = _checked(progress, warmup, floor)
    _check_no_floor(floor, "step")
    places = [warmup, *milestones, 1]
    if len(places) == 2 or not all(a < b for a, b in pairwise(places)):
        raise ValueError(f"milestones are {list(milestones)}: expected rising shares of the run, between warm-up and 1")
    if not 0 < gamma < 1:
        raise ValueError(f"gamma is {gamma}: expected a factor in (0, 1)")
    passed: int = sum(progress >= milestone - ROUNDING for milestone in milestones)
    return _rise(progress, warmup) * gamma**passed


def linear(progress: float, *, warmup: float, floor: float = 0.0) -> float:
    """After the warm-up a straight line from 1 to `floor`."""
    progress = _checked(progress, warmup, floor)
    return _rise(progress, warmup) * _above(floor, 1 - _since(progress, warmup))


def polynomial(progress: float, *, warmup: float, floor: float = 0.0, power: float = 2.0) -> float:
    """After the warm-up a power of the line from 1 to 0, above `floor`; torch's `PolynomialLR`.

    Args:
        progress, warmup, floor: see the top of this file.
        power: positive; 1 is `linear`.
    """
    progress = _checked(progress, warmup, floor)
    if not 0 < power < float("inf"):
        raise ValueError(f"power is {power}: expected a positive number")
    return _rise(progress, warmup) * _above(floor, (1 - _since(progress, warmup)) ** power)


def cosine(progress: float, *, warmup: float, floor: float = 0.0) -> float:
    """After the warm-up half a cosine from 1 to `floor`: Loshchilov and Hutter (2017), without restarts."""
    progress = _checked(progress, warmup, floor)
    return _rise(progress, warmup) * _above(floor, _half_wave(_since(progress, warmup)))


def cosine_restarts(
    progress: float, *, warmup: float, floor: float = 0.0, t_0: float = 1 / 7, t_mult: int = 2
) -> float:
    """After the warm-up half cosines from 1 to `floor`, one after the other: torch's `CosineAnnealingWarmRestarts`.

    The time of the cycles begins where the warm-up ends. `floor` is eta_min as a share of the base learning rate.
    A point at which a cycle ends belongs to the next one.

    Args:
        progress, warmup, floor: see the top of this file.
        t_0: length of the first cycle, a share of the whole run; torch's T_0 epochs are T_0 / epochs. By default three
            cycles fill the run.
        t_mult: how many times as long as the one before a cycle is, an integer of at least 1.
    """
    progress = _checked(progress, warmup, floor)
    if not 0 < t_0 <= 1 - warmup + ROUNDING:
        raise ValueError(f"t_0 is {t_0:g} of the run: expected a positive share, and no more than the warm-up leaves")
    if not (isinstance(t_mult, int) and t_mult >= 1):
        raise ValueError(f"t_mult is {t_mult}: expected an integer of at least 1")
    left, length = max(0.0, progress - warmup), t_0
    while left > length - ROUNDING:
        left, length = max(0.0, left - length), length * t_mult
    return _rise(progress, warmup) * _above(floor, _half_wave(left / length))


def one_cycle(progress: float, *, warmup: float, floor: float = 0.0, start: float = 0.04) -> float:
    """Half a cosine from `start` up to 1 at `warmup`, and another down to `floor`: torch's `OneCycleLR`.

    Smith and Topin (2018) let the rate rise for a third of the run or more.

    Args:
        progress, floor: see the top of this file.
        warmup: where the peak is.
        start: the multiplier at the start, in [0, 1]; 1 / 25 in torch.
    """
    progress = _checked(progress, warmup, floor)
    if not 0 <= start <= 1:
        raise ValueError(f"start is {start}: expected a multiplier in [0, 1]")
    if progress < warmup:
        return _above(start, _half_wave(1 - progress / warmup))
    return _above(floor, _half_wave(_since(progress, warmup)))


def trapezoid(progress: float, *, warmup: float, floor: float = 0.0, cooldown: float = 0.2) -> float:
    """After the warm-up 1, and a straight line down to `floor` in the last part: Zhai et al. (arXiv:2106.04560).

    Args:
        progress, warmup, floor: see the top of this file.
        cooldown: the share of the run in which the rate falls, positive; with the warm-up at most 1.
    """
    progress = _checked(progress, warmup, floor)
    if not 0 < cooldown <= 1 - warmup + ROUNDING:
        raise ValueError(f"cooldown is {cooldown:g} of the run: expected a positive share, at most what warm-up leaves")
    return _rise(progress, warmup) * _above(floor, min(1.0, (1 - progress) / cooldown))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "step": step,
    "linear": linear,
    "polynomial": polynomial,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "one_cycle": one_cycle,
    "trapezoid": trapezoid,
}


def _checked(progress: float, warmup: float, floor: float) -> float:
    """`progress` without its rounding error; NaN fails every comparison and so raises too."""
    if not -ROUNDING <= progress <= 1 + ROUNDING:
        raise ValueError(f"progress is {progress}: expected a number in [0, 1]")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is {warmup}: expected the part of the run that warms up, in [0, 1)")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}: expected a multiplier in [0, 1]")
    return min(1.0, max(0.0, progress))


def _check_no_floor(floor: float, name: str) -> None:
    if floor != 0:
        raise ValueError(f"floor is {floor}: the schedule '{name}' has none; leave it at 0 or take the cosine")


def _rise(progress: float, warmup: float) -> float:
    """0 at the start, 1 from the end of the warm-up on."""
    return progress / warmup if progress < warmup else 1.0


def _since(progress: float, warmup: float) -> float:
    """0 until the end of the warm-up, 1 at the end of the run."""
    return max(0.0, progress - warmup) / (1 - warmup)


def _half_wave(t: float) -> float:
    """1 at t = 0, 0 at t = 1, along a cosine."""
    return (1 + cos(pi * t)) / 2


def _above(floor: float, height: float) -> float:
    return floor + (1 - floor) * height
