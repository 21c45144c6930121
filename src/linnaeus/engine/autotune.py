"""Precision and memory layout chosen by measuring the real network on the real batch."""

import time
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch

from linnaeus.core.batch import Batch
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import Precision, autocast, has_bf16, synchronize
from linnaeus.engine.step import StepRule

ROUNDS = 3
TARGET_SECONDS = 0.4
"""About how long one measured step may take; the batch is cut to fit."""
MARGIN = 0.95
"""A faster way must beat the plain one by this factor: noise must not decide."""
LOSS_TOLERANCE = 0.05
"""Largest relative gap between the losses of a way and of float32."""


class Way(NamedTuple):
    """How a network is run."""

    precision: Precision
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}, {'channels last' if self.channels_last else 'channels first'}"


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and what was measured.

    Attributes:
        seconds: way in words -> median seconds of a forward and backward pass on `images` images.
        rejected: ways whose loss was too far from that of float32, with both losses in words.
    """

    way: Way
    images: int
    seconds: dict[str, float]
    rejected: dict[str, str]


def candidates(device: torch.device, precision: Precision | None, channels_last: bool | None) -> list[Way]:
    """The ways to try, the plainest first; a given setting is kept, and bf16 needs hardware that computes in it."""
    precisions: list[Precision] = [precision] if precision else ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    layouts = [False, True] if channels_last is None else [channels_last]
    return [Way(p, layout) for p in precisions for layout in layouts]


def choose(model: Classifier, batch: Batch, rule: StepRule, ways: list[Way]) -> Choice:
    """Times each way for a few steps, in turns, on copies of the model; takes the fastest whose loss agrees.

    Args:
        model: on its device; not changed.
        batch: on the same device.
        rule: the loss and the preprocessing.
        ways: from `candidates`.
    """
    if len(ways) == 1:
        return Choice(ways[0], 0, {}, {})
    copies = {way: _copy(model, way) for way in ways}
    part = _cut(copies[ways[0]], batch, rule, ways[0])
    losses = {way: _pass(copies[way], part, rule, way)[1] for way in ways}  # the first pass also warms up
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            times[way].append(_pass(copies[way], part, rule, way)[0])
    medians = {way: median(values) for way, values in times.items()}
    plain = ways[0]
    rejected = {
        str(way): f"loss {losses[way]:.4f} against {losses[plain]:.4f}"
        for way in ways
        if not abs(losses[way] - losses[plain]) <= LOSS_TOLERANCE * abs(losses[plain])
    }
    eligible = [way for way in ways if str(way) not in rejected and medians[way] < MARGIN * medians[plain]]
    best = min(eligible, key=lambda way: medians[way], default=plain)
    return Choice(best, len(part), {str(way): round(value, 6) for way, value in medians.items()}, rejected)


def _copy(model: Classifier, way: Way) -> Classifier:
    return arrange(deepcopy(model), channels_last=way.channels_last).train()


def arrange(model: Classifier, *, channels_last: bool) -> Classifier:
    """Lays the weights out in memory; to be done before the optimizer is built."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(memory_format=layout)


def _cut(model: Classifier, batch: Batch, rule: StepRule, way: Way) -> Batch:
    """The first images of the batch: as many as are estimated to take the target time."""
    few = next(batch.split(max(1, len(batch) // 8)))
    _pass(model, few, rule, way)
    seconds = _pass(model, few, rule, way)[0]
    wanted = min(len(batch), max(len(few), int(len(few) * TARGET_SECONDS / seconds)))
    return Batch(batch.images[:wanted], batch.targets[:wanted], batch.valid[:wanted], batch.index[:wanted])


def _pass(model: Classifier, batch: Batch, rule: StepRule, way: Way) -> tuple[float, float]:
    """Seconds and mean loss of one forward and backward pass."""
    device = batch.images.device
    synchronize(device)
    start = time.perf_counter()
    with autocast(device, way.precision):
        logits = model(rule.preprocess(batch.images))
    loss = rule.loss(logits, batch.targets, batch.valid) / len(batch)
    torch.autograd.backward(loss)
    synchronize(device)
    seconds = time.perf_counter() - start
    model.zero_grad()
    return seconds, float(loss.detach())
