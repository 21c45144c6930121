"""Schedules: pure functions from the progress of a run to a multiplier of the base learning rate.

Progress is in [0, 1]. A caller with steps evaluates at the middle of each, `(step + 0.5) / steps`: the first step then
has a positive rate, the last one does not stop at the floor, and the mean over the steps is that of the curve.
"""

from math import cos, pi
from typing import Protocol

# Progress is a quotient of times or counts and may miss 0 or 1 by rounding.
ROUNDING = 1e-9


class Schedule(Protocol):
    """What every entry of `SCHEDULES` is."""

    def __call__(self, progress: float, *, warmup: float, floor: float = 0.0) -> float:
        """The multiplier at `progress`."""


def warmup_cosine(progress: float, *, warmup: float, floor: float = 0.0) -> float:
    """Linear from 0 at the start to 1 at `warmup`, then half a cosine to `floor` at the end.

    The cosine is that of Loshchilov and Hutter (2017), without restarts, with t from 0 at `warmup` to 1 at the end:
    floor + (1 - floor) (1 + cos(pi t)) / 2.

    Args:
        progress: in [0, 1]; see above for how a step becomes progress.
        warmup: the part of the run that warms up, in [0, 1); 0 for none.
        floor: what is left at the end, in [0, 1].

    Raises:
        ValueError: an argument is outside its range.
    """
    progress = _checked(progress, warmup, floor)
    if progress < warmup:
        return progress / warmup
    t = (progress - warmup) / (1 - warmup)
    return floor + (1 - floor) * (1 + cos(pi * t)) / 2


def constant(progress: float, *, warmup: float, floor: float = 0.0) -> float:
    """Linear from 0 at the start to 1 at `warmup`, then 1.

    Args:
        progress: in [0, 1].
        warmup: the part of the run that warms up, in [0, 1); 0 for none.
        floor: only 0, its default: this schedule never falls, and a setting without effect is an error.

    Raises:
        ValueError: an argument is outside its range.
    """
    progress = _checked(progress, warmup, floor)
    if floor != 0:
        raise ValueError(f"floor is {floor}: the constant schedule has none; leave it at 0 or use the cosine")
    return progress / warmup if progress < warmup else 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": warmup_cosine, "constant": constant}


def _checked(progress: float, warmup: float, floor: float) -> float:
    """`progress` without its rounding error; NaN fails every comparison and so raises too."""
    if not -ROUNDING <= progress <= 1 + ROUNDING:
        raise ValueError(f"progress is {progress}: expected a number in [0, 1]")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup is {warmup}: expected the part of the run that warms up, in [0, 1)")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}: expected a multiplier in [0, 1]")
    return min(1.0, max(0.0, progress))
