"""One optimizer step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from linnaeus.core.batch import Batch
from linnaeus.core.budget import Budget
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import Precision, autocast, seed
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.seed import derive
from linnaeus.engine.guard import (
    FAILURES,
    FAULTS,
    count_fault,
    go_without_compiler,
    is_out_of_memory,
    moving,
    put_back,
    too_little_memory,
)
from linnaeus.optim.ema import Ema

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, valid) -> the loss summed over the valid images."""
Mix = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(normalised images, targets, valid, step) -> (images, (B, K) targets); images 0 and 1, 2 and 3, ... are mixed."""
Teach = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(normalised images, logits, valid) -> how far a teacher is from the logits, summed over the valid images."""


@dataclass
class State:
    """All that training changes. With the configuration and the data it determines the rest of the run.

    Attributes:
        sums: (3,) float on the device, of the epoch so far: loss, what `StepRule.measure` says of each image, images.
        best: the best rank on val so far: what the judge of the run said of it, the larger the better.
        best_step: when it was so.
        ranked: (step, rank) of every evaluation, where weights of epochs are kept to be averaged; else empty.
        stopped: whether the run has ended before its time, since no better state came (`StepRule.patience`).
        due: whether an epoch is done and its evaluation is not.
        micro_batches: a step is cut into so many at least; more than `StepRule.accumulate` once memory was too small.
        rollbacks: how often the run went back to an earlier state; each has halved the learning rate.
        anchor: the step of the state to go back to; None where the run does not go back.
        compiled: whether the network is compiled; False for good once that has failed.
        faults: (FAULTS,) float on the device, steps that were not good (`engine/guard.py`).
    """

    model: Classifier
    optimizer: Optimizer
    ema: Ema | None
    sums: Tensor
    step: int = 0
    best: tuple[float, float] | None = None
    best_step: int = 0
    ranked: list[tuple[int, tuple[float, float]]] = field(default_factory=list)
    stopped: bool = False
    due: bool = False
    micro_batches: int = 1
    rollbacks: int = 0
    anchor: int | None = None
    compiled: bool = False
    faults: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.faults = self.sums.new_zeros(FAULTS)

    @property
    def way(self) -> tuple[int, bool]:
        """How steps are taken; they change it themselves where they must, and then the state is worth saving."""
        return self.micro_batches, self.compiled

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated and delivered: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module


def top1(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, K), (B,) int64 or (B, K) probabilities -> (B,) 1 where the largest logit is the truth, else 0.

    The truth of a mixed image is the class it shows most of.
    """
    truth = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits.argmax(1) == truth).float()


def f1(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, K), (B, K) in [0, 1] -> (B,) the F1 of each image's classes at a probability of a half.

    It is 1 for an image without classes that is said to have none. Of a mixed image, a class counts that it has by at
    least half.
    """
    said, truth = logits > 0, targets >= 0.5
    hits, sizes = (said & truth).sum(1), said.sum(1) + truth.sum(1)
    return torch.where(sizes > 0, 2 * hits / sizes.clamp(min=1), 1.0)


MEASURES = {"top1": top1, "f1": f1}
"""How training images are judged while they train, in [0, 1]: for people to watch, nothing depends on it."""


@dataclass(frozen=True)
class StepRule:
    """How a step is taken.

    Attributes:
        loss: summed over the valid images of a micro-batch.
        schedule: progress of the run, in [0, 1] -> multiplier of the base learning rate.
        total_steps: steps of the whole run; under a budget, those that are expected.
        accumulate: micro-batches a step.
        clip_norm: largest norm of the whole gradient; 0 leaves it alone.
        mix: mixes the images of a micro-batch and their targets; None for no mixing.
        teach: is added to the loss, on the images as they are mixed; None for no teacher.
        measure: a name of `MEASURES`; the record has it as "train/<name>".
        patience: steps without a better state after which the run ends, at the end of an epoch; 0 for never.
        budget: ends the run by the clock, in place of `total_steps`; None for a run of so many steps.
        on_nonfinite: what becomes of a step whose loss or gradient is not finite: the run stops; the step is left out;
            or the run goes back to the last evaluation, with half the learning rate.
        spike: a loss more than so many times the usual one is taken like one that is not finite; 0 for no such limit.
        note: is told in a line what a person should know.
    """

    preprocess: Preprocess
    loss: Loss
    schedule: Callable[[float], float]
    total_steps: int
    seed: int
    precision: Precision = "fp32"
    accumulate: int = 1
    clip_norm: float = 0.0
    mix: Mix | None = None
    teach: Teach | None = None
    measure: str = "top1"
    patience: int = 0
    budget: Budget | None = None
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    spike: float = 0.0
    note: Callable[[str], None] = field(default=lambda _: None)

    def progress(self, step: int) -> float:
        """How much of the run is done at the middle of a step, in [0, 1]."""
        return (step + 0.5) / self.total_steps if self.budget is None else self.budget.share(step)

    def is_over(self, step: int) -> bool:
        """Whether the run ends before this step."""
        return step >= self.total_steps if self.budget is None else self.budget.is_over(step)

    def allows_evaluation(self, step: int) -> bool:
        """Whether the network may be evaluated before this step, which is not the end."""
        return self.budget is None or self.budget.allows_evaluation(step)


def take_step(state: State, batch: Batch, rule: StepRule) -> None:
    """Trains on one batch and counts it in `state.sums` and `state.step`. Never waits for the device.

    Raises:
        EnvironmentFault: if memory is too small for the smallest micro-batch.
    """
    progress = rule.progress(state.step)
    multiplier = rule.schedule(progress) * 0.5**state.rollbacks
    for group in state.optimizer.param_groups:
        # Frozen by a rate of 0, and not by requires_grad: what moves is a function of the step, and so is the state.
        group["lr"] = 0.0 if progress < group.get("frozen_until", 0.0) else group["initial_lr"] * multiplier

    skips = rule.on_nonfinite == "skip"
    before = [tensor.clone() for tensor in moving(state.model, state.optimizer)] if skips else []
    sums = _gradients(state, batch, rule)
    norm = None
    if rule.clip_norm > 0:
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), rule.clip_norm)
    elif skips:
        norm = nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    state.optimizer.step()
    state.optimizer.zero_grad()
    if skips or rule.spike > 0:
        good = count_fault(state.faults, sums[0] / sums[2].clamp(min=1), norm if skips else None, rule.spike)
        if skips:
            put_back(moving(state.model, state.optimizer), before, unless=good)
            sums = torch.where(good, sums, torch.zeros_like(sums))
    state.sums += sums
    state.step += 1
    if state.ema is not None:
        state.ema.update(state.model, state.step - 1)


def _gradients(state: State, batch: Batch, rule: StepRule) -> Tensor:
    """Adds up the gradient of the mean loss of a batch; the sums of the step, as `State.sums` has those of an epoch.

    Where memory is too small it begins anew, with micro-batches of half the size; where the compiler fails, without it.
    """
    buffers = [(buffer, buffer.clone()) for buffer in state.model.buffers()]
    while True:
        # Dropout and stochastic depth draw from torch's own generators.
        seed(batch.images.device, derive(rule.seed, "step", state.step))
        try:
            return _pass(state, batch, rule)
        except FAILURES as error:
            _go_slower(state, batch, rule, error)
        # Only here, where no traceback holds the activations any more.
        state.optimizer.zero_grad()
        for buffer, old in buffers:
            buffer.copy_(old)
        if batch.images.is_cuda:
            torch.cuda.empty_cache()


def _pass(state: State, batch: Batch, rule: StepRule) -> Tensor:
    sums, count = torch.zeros_like(state.sums), batch.valid.sum().clamp(min=1)  # 1: files may all be gone
    together = 2 if rule.mix else 1  # mixing pairs neighbours
    for part in batch.split(max(rule.accumulate, state.micro_batches), together=together):
        images, targets = rule.preprocess(part.images), part.targets
        if rule.mix is not None:
            images, targets = rule.mix(images, targets, part.valid, state.step)
        with autocast(batch.images.device, rule.precision):
            logits = state.model(images)
            taught = rule.teach(images, logits, part.valid) if rule.teach is not None else None
        loss = rule.loss(logits, targets, part.valid)
        loss = loss if taught is None else loss + taught
        torch.autograd.backward(loss / count)
        sums += _sums(loss, MEASURES[rule.measure](logits.detach(), targets), part.valid)
    return sums


def _go_slower(state: State, batch: Batch, rule: StepRule, error: BaseException) -> None:
    """Changes the way that steps are taken from now on, so that this one can be; or raises what it was given.

    Raises:
        EnvironmentFault: if memory is too small for the smallest micro-batch.
    """
    if is_out_of_memory(error):
        together = 2 if rule.mix else 1
        parts, most = max(rule.accumulate, state.micro_batches), -(-len(batch) // together)
        if parts >= most:
            raise too_little_memory(together) from None
        state.micro_batches = min(2 * parts, most)
        size = -(-len(batch) // state.micro_batches)
        has_statistics = any(isinstance(module, _BatchNorm) for module in state.model.modules())
        rule.note(
            f"out of memory at step {state.step + 1:,}: from here on {size} images at a time; a step is still one of "
            f"{len(batch)} images" + (", but BatchNorm sees only those of a part" if has_statistics else "")
        )
    elif said := go_without_compiler(state.model, error):
        state.compiled = False
        rule.note(said)
    else:
        raise error


def _sums(loss: Tensor, right: Tensor, valid: Tensor) -> Tensor:
    return torch.stack([loss.detach(), (right * valid).sum(), valid.sum().float()])
