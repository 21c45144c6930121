"""How many images a step: measured by training steps of growing size, as far as memory, time and the set allow."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from linnaeus.core.batch import Batch
from linnaeus.core.device import synchronize
from linnaeus.engine.step import State, StepRule, take_step

SMALLEST, LARGEST = 16, 2048
STEPS_PER_EPOCH = 20
"""An epoch has at least so many steps, where the set has images for it: with fewer, little is learnt in an epoch."""
ROUNDS = 3
LONGEST = 4.0
"""Seconds of a step above which no larger one is tried."""
NEARLY = 0.95
"""Share of the highest speed that is as good as it."""


def ladder(images: int) -> list[int]:
    """The sizes to try for a set of so many images, each twice the one before; the smallest at least."""
    sizes = [SMALLEST]
    while 2 * sizes[-1] <= min(LARGEST, images // STEPS_PER_EPOCH):
        sizes.append(2 * sizes[-1])
    return sizes


def time_batch_sizes(
    state: State, batch_of: Callable[[int], Batch], rule: StepRule, sizes: Sequence[int]
) -> dict[int, float]:
    """Training images a second for each size, up to where nothing is to be won any more.

    That is where memory is too small, a step takes longer than `LONGEST`, or two doublings brought less than a
    twentieth. The state is used up.

    Args:
        batch_of: a size -> so many images, on the device of the state.
        sizes: from the smallest on.

    Raises:
        EnvironmentFault: if memory is too small for one image.
    """
    rule = replace(rule, schedule=lambda _: 0.0)  # any number of steps, and none of them diverges
    speeds: dict[int, float] = {}
    for size in sizes:
        batch = batch_of(size)
        take_step(state, batch, rule)  # kernels are chosen, and memory is taken
        if state.micro_batches > 1:
            break
        seconds = median(_seconds(state, batch, rule) for _ in range(ROUNDS))
        speeds[size] = size / seconds
        *earlier, before, last = [0.0, 0.0, *speeds.values()]
        if seconds > LONGEST or NEARLY * max(before, last) < max(earlier, default=0.0):
            break
    return speeds


def smallest_fast(speeds: Mapping[int, float], sizes: Sequence[int]) -> int:
    """The smallest size whose speed is nearly the highest; the smallest of all where none fits into memory."""
    best = max(speeds.values(), default=0.0)
    return min((size for size, speed in speeds.items() if speed >= NEARLY * best), default=sizes[0])


def _seconds(state: State, batch: Batch, rule: StepRule) -> float:
    synchronize(batch.images.device)
    began = time.perf_counter()
    take_step(state, batch, rule)
    synchronize(batch.images.device)
    return time.perf_counter() - began
