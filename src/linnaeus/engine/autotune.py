"""How a network is run, chosen by measuring it on its own batches: precision, memory layout, compiled or not."""

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain, count
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from linnaeus.core.batch import Batch, Loader
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import Precision, autocast, has_bf16, synchronize
from linnaeus.engine.guard import (
    FAILURES,
    compile_in_place,
    first_line,
    is_out_of_memory,
    too_little_memory,
)
from linnaeus.engine.step import State, StepRule, take_step

ROUNDS = 3
TARGET_SECONDS = 0.4
"""About how long one measured step may take; the batch is cut to fit."""
MARGIN = 0.95
"""A faster way must beat the plain one by this factor: noise must not decide."""
LOSS_TOLERANCE = 0.05
"""Largest relative gap between the losses of a way and of float32, beyond what chance makes on so few images."""
TRIAL_SHARE = 0.05
"""Share of the training time that a trial may take; where it would take more, it is not made."""
COMPILE_SECONDS = 75.0
"""What compiling a network is taken to cost before it is tried: 35 to 75 s were measured for training steps."""
SHAPES = 2
"""Shapes for which a run compiles: that of training, and that of evaluation."""
LOOK_SECONDS = 0.5
"""How often the device is waited for while steps are timed, as often as in the training loop."""


class Way(NamedTuple):
    """How a network is run."""

    precision: Precision
    channels_last: bool
    compiled: bool = False

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {layout}{', compiled' if self.compiled else ''}"


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and what was measured.

    Attributes:
        seconds: way in words -> median seconds of a forward and backward pass on `images` images.
        rejected: ways whose loss was too far from that of float32, or that failed, with the reason in words.
        why: what decided whether it is compiled; "" where that was not asked.
    """

    way: Way
    images: int
    seconds: dict[str, float]
    rejected: dict[str, str]
    why: str = ""


def candidates(device: torch.device, precision: Precision | None, channels_last: bool | None) -> list[Way]:
    """The ways to try, the plainest first; a given setting is kept, and bf16 needs hardware that computes in it."""
    precisions: list[Precision] = [precision] if precision else ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    layouts = [False, True] if channels_last is None else [channels_last]
    return [Way(p, layout) for p in precisions for layout in layouts]


def choose(model: Classifier, batch: Batch, rule: StepRule, ways: list[Way]) -> Choice:
    """Times each way for a few steps, in turns, on copies of the model; takes the fastest whose loss agrees.

    A way for which memory is too small is rejected; for the plainest one, fewer images are taken until it fits.

    Args:
        model: on its device; not changed.
        batch: on the same device.
        rule: the loss and the preprocessing.
        ways: from `candidates`.
    """
    plain = ways[0]
    copies = {plain: _copy(model, plain)}
    part = _cut(copies[plain], batch, rule, plain)
    losses, rejected = {plain: _pass(copies[plain], part, rule, plain)[1]}, dict[str, str]()
    for way in ways[1:]:
        try:
            copy = _copy(model, way)
            losses[way] = _pass(copy, part, rule, way)[1]  # the first pass also warms up
            copies[way] = copy
        except FAILURES as error:
            if not is_out_of_memory(error):
                raise
            rejected[str(way)] = "out of memory"
    times: dict[Way, list[float]] = {way: [] for way in losses}
    for _ in range(ROUNDS):
        for way, values in times.items():
            values.append(_pass(copies[way], part, rule, way)[0])
    medians = {way: median(values) for way, values in times.items()}
    rejected |= {str(way): reason for way, found in losses.items() if (reason := disagreement(found, losses[plain]))}
    eligible = [way for way in losses if str(way) not in rejected and medians[way] < MARGIN * medians[plain]]
    best = min(eligible, key=lambda way: medians[way], default=plain)
    return Choice(best, len(part), {str(way): round(value, 6) for way, value in medians.items()}, rejected)


def consider_compiling(
    model: Classifier, batch: Batch, rule: StepRule, choice: Choice, *, training: float, note: Callable[[str], None]
) -> Choice:
    """The same choice, compiled if that is measured to pay back within the run.

    It is tried only where trying takes no more than `TRIAL_SHARE` of the run, and is kept where the time that it saves
    is more than the run will need to compile.

    Args:
        model, batch, rule: as for `choose`.
        training: seconds that training takes as chosen.
        note: is told that it is tried, before it is: that may take minutes.
    """
    if training * TRIAL_SHARE < COMPILE_SECONDS:
        why = f"not compiled: training takes {training:,.0f} s, and compiling about {COMPILE_SECONDS:.0f} s"
        return replace(choice, why=why)
    note("trying the network compiled; this may take some minutes (train.compile=false does without)")
    plain, way = choice.way, choice.way._replace(compiled=True)
    part = batch.first(choice.images)
    try:
        copies = {plain: _copy(model, plain), way: _copy(model, way)}
        compile_in_place(copies[way])
        loss = _pass(copies[plain], part, rule, plain)[1]
        cost, found = _pass(copies[way], part, rule, way)
        pairs = [[_pass(copies[each], part, rule, each)[0] for each in (plain, way)] for _ in range(ROUNDS)]
    except FAILURES as error:
        reason = f"compiling failed: {first_line(error)}"
        return replace(choice, rejected={**choice.rejected, str(way): reason}, why=f"not compiled: {reason}")
    if reason := disagreement(found, loss):
        return replace(choice, rejected={**choice.rejected, str(way): reason}, why=f"not compiled: {reason}")
    before, after = (median(times) for times in zip(*pairs, strict=True))
    saved = training * (1 - after / before)
    why = f"compiling saves {saved:,.0f} s of {training:,.0f} s of training and takes {SHAPES * cost:,.0f} s"
    seconds = {**choice.seconds, str(plain): round(before, 6), str(way): round(after, 6)}
    if saved <= SHAPES * cost:
        return replace(choice, images=len(part), seconds=seconds, why=f"not compiled: {why}")
    return replace(choice, way=way, images=len(part), seconds=seconds, why=why)


def disagreement(found: Tensor, plain: Tensor) -> str:
    """Why the losses of a way are not those of float32, in words; "" where they are.

    Batch normalisation with the statistics of few images makes much of little: with a head that is not fitted yet,
    rounding to bfloat16 changes the loss of an image by a tenth and more, up for one and down for another. So the gap
    of the means counts by as much as it is more than two standard errors of the differences image by image. A way that
    gives something else altogether may have the same mean: its differences spread more than the losses themselves.

    Args:
        found, plain: (B,), of the same images.
    """
    tolerance = LOSS_TOLERANCE * abs(float(plain.mean()))
    differences = found - plain
    gap, spread = abs(float(differences.mean())), float(differences.std(correction=0))
    if gap <= tolerance + 2 * spread / math.sqrt(len(plain)) and spread <= tolerance + float(plain.std(correction=0)):
        return ""
    return f"loss {float(found.mean()):.4f} against {float(plain.mean()):.4f}, image by image ± {spread:.4f}"


@dataclass(frozen=True)
class Speed:
    """How fast steps follow each other.

    Attributes:
        start: seconds that the first step takes more than others: until its batch is there, and to compile.
        step: seconds a step, with its batch.
        wait: share of these in which the batch is waited for.
    """

    start: float
    step: float
    wait: float


def time_steps(state: State, loader: Loader, rule: StepRule, *, device: torch.device, limit: float) -> Speed:
    """Takes steps on a state that is thrown away, for half of `limit` seconds to warm up and for `limit` to measure.

    At least one step is taken for each.
    """
    rule = replace(rule, schedule=lambda _: 0.0)  # any number of steps, and none of them diverges
    batches = chain.from_iterable(loader.epoch(epoch) for epoch in count())
    _, start, _ = _take_steps(state, batches, rule, device, 0)
    # Kernels are chosen, and what workers make in advance while the first step is slow is used up.
    _take_steps(state, batches, rule, device, limit / 2)
    number, seconds, waited = _take_steps(state, batches, rule, device, limit)
    return Speed(max(0.0, start - seconds / number), seconds / number, waited / seconds)


def _take_steps(
    state: State, batches: Iterator[Batch], rule: StepRule, device: torch.device, limit: float
) -> tuple[int, float, float]:
    """Steps taken; the seconds they took; and those in which batches were waited for."""
    began = looked = time.monotonic()
    number, waited = 0, 0.0
    while number == 0 or time.monotonic() - began <= limit:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        take_step(state, batch.to(device), rule)
        number += 1
        if time.monotonic() - looked > LOOK_SECONDS:
            synchronize(device)
            looked = time.monotonic()
    synchronize(device)
    return number, time.monotonic() - began, waited


def _copy(model: Classifier, way: Way) -> Classifier:
    return arrange(deepcopy(model), channels_last=way.channels_last).train()


def arrange(model: Classifier, *, channels_last: bool) -> Classifier:
    """Lays the weights out in memory; to be done before the optimizer is built."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(memory_format=layout)


def _cut(model: Classifier, batch: Batch, rule: StepRule, way: Way) -> Batch:
    """The first images of the batch: as many as are estimated to take the target time, and as there is memory for."""
    few = _fitting(model, batch.first(8), rule, way)
    seconds = _pass(model, few, rule, way)[0]
    wanted = min(len(batch), max(len(few), int(len(few) * TARGET_SECONDS / seconds)))
    return _fitting(model, batch.first(wanted), rule, way)


def _fitting(model: Classifier, part: Batch, rule: StepRule, way: Way) -> Batch:
    """The first images of a batch: all of them, or half as many each time that memory is too small.

    Raises:
        EnvironmentFault: if it is too small for one.
    """
    while True:
        try:
            _pass(model, part, rule, way)
        except FAILURES as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise too_little_memory(1) from None
        else:
            return part
        model.zero_grad()
        part = part.first(len(part) // 2)


def _pass(model: Classifier, batch: Batch, rule: StepRule, way: Way) -> tuple[float, Tensor]:
    """Seconds of one forward and backward pass, and the (B,) losses of the images. All ways drop the same."""
    device = batch.images.device
    with torch.random.fork_rng():
        torch.manual_seed(rule.seed)
        synchronize(device)
        start = time.perf_counter()
        with autocast(device, way.precision):
            logits = model(rule.preprocess(batch.images))
        torch.autograd.backward(rule.loss(logits, batch.targets, batch.valid) / len(batch))
        synchronize(device)
        seconds = time.perf_counter() - start
    model.zero_grad()
    rows = zip(*(torch.split(each, 1) for each in (logits.detach(), batch.targets, batch.valid)), strict=True)
    return seconds, torch.stack([rule.loss(*row) for row in rows]).float().cpu()
