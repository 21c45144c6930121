"""One optimizer step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.core.batch import Batch
from linnaeus.core.classifier import Classifier
from linnaeus.core.device import Precision, autocast
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.seed import derive
from linnaeus.optim.ema import Ema

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, valid) -> the loss summed over the valid images."""
Mix = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(normalised images, targets, valid, step) -> (images, (B, K) targets); images 0 and 1, 2 and 3, ... are mixed."""


@dataclass
class State:
    """All that training changes. With the configuration and the data it determines the rest of the run.

    Attributes:
        sums: (3,) float on the device: loss, correct predictions and images of the epoch so far.
        best: the best (top-1, -loss) on val so far.
    """

    model: Classifier
    optimizer: Optimizer
    ema: Ema | None
    sums: Tensor
    step: int = 0
    best: tuple[float, float] | None = None

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated and delivered: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.module


@dataclass(frozen=True)
class StepRule:
    """How a step is taken.

    Attributes:
        loss: summed over the valid images of a micro-batch.
        schedule: share of the run's steps done, in [0, 1] -> multiplier of the base learning rate.
        total_steps: steps of the whole run.
        accumulate: micro-batches a step.
        clip_norm: largest norm of the whole gradient; 0 leaves it alone.
        mix: mixes the images of a micro-batch and their targets; None for no mixing.
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


def take_step(state: State, batch: Batch, rule: StepRule) -> None:
    """Trains on one batch and counts it in `state.sums` and `state.step`. Never waits for the device."""
    multiplier = rule.schedule((state.step + 0.5) / rule.total_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier
    torch.manual_seed(derive(rule.seed, "step", state.step))  # dropout and stochastic depth draw from torch's own state

    count = batch.valid.sum()
    for part in batch.split(rule.accumulate, together=2 if rule.mix else 1):  # mixing pairs neighbours
        images, targets = rule.preprocess(part.images), part.targets
        if rule.mix is not None:
            images, targets = rule.mix(images, targets, part.valid, state.step)
        with autocast(batch.images.device, rule.precision):
            logits = state.model(images)
        loss = rule.loss(logits, targets, part.valid)
        torch.autograd.backward(loss / count)
        state.sums += _sums(loss, logits, targets, part.valid)

    if rule.clip_norm > 0:
        nn.utils.clip_grad_norm_(state.model.parameters(), rule.clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    if state.ema is not None:
        state.ema.update(state.model, state.step - 1)


@torch.no_grad()
def _sums(loss: Tensor, logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    truth = targets if targets.ndim == 1 else targets.argmax(1)  # of a mixed image, the class it shows most of
    correct = ((logits.argmax(1) == truth) & valid).sum()
    return torch.stack([loss.detach(), correct.float(), valid.sum().float()])
