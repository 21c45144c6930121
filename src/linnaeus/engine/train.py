"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from linnaeus.core.batch import Loader
from linnaeus.core.errors import Interrupted, VerdictError
from linnaeus.engine.checkpoint import save_checkpoint, save_weights
from linnaeus.engine.step import State, StepRule, take_step

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Outlet:
    """Where a run leaves what it learns, and how it is told to stop.

    Attributes:
        folder: of the checkpoints.
        record: called with (step, values) for every line of the record.
        show: called with (step, values) at every look at the numbers, for people; nothing may depend on it.
        stop_signal: the number of the signal that asked to stop, or 0.
        save_seconds: longest time without a checkpoint.
        look_seconds: how often the sums are read from the device, and so how late a NaN is found.
        keep: checkpoints to keep.
    """

    folder: Path
    record: Callable[[int, Scores], None]
    show: Callable[[int, Scores], None]
    stop_signal: Callable[[], int] = field(default=lambda: 0)
    save_seconds: float = 300.0
    look_seconds: float = 0.5
    keep: int = 2


def train(
    state: State,
    loader: Loader,
    rule: StepRule,
    *,
    device: torch.device,
    evaluate: Callable[[State], Scores],
    outlet: Outlet,
) -> None:
    """Trains from wherever `state` stands to the last step.

    At the end of each epoch, and of the run, the network is evaluated and saved; the best one is kept as
    `best.safetensors`. The batches, the draws and the learning rate of a step depend on its number alone, so a state
    restored from any checkpoint goes on as if it had never stopped.

    Args:
        evaluate: the scores on val, with "val/top1" and "val/loss", which choose the best.

    Raises:
        Interrupted: after saving, when a signal asked to stop.
        VerdictError: when the loss is not finite; what was saved before stays.
    """
    state.model.train()
    saved = looked = time.monotonic()
    while state.step < rule.total_steps:
        epoch, start = divmod(state.step, loader.num_batches)
        for batch in loader.epoch(epoch, start):
            take_step(state, batch.to(device), rule)
            now = time.monotonic()
            if now - looked > outlet.look_seconds:
                outlet.show(state.step, epoch_scores(state))
                looked = now
            if state.step == rule.total_steps or state.step % loader.num_batches == 0:
                break  # saved below, after the evaluation: a state saved here would resume without it
            if now - saved > outlet.save_seconds or outlet.stop_signal():
                epoch_scores(state)  # a state that is not finite is not worth keeping
                save_checkpoint(outlet.folder, state, keep=outlet.keep)
                saved = now
                _stop_if_asked(outlet)
        finish_epoch(state, evaluate, outlet)
        saved = time.monotonic()
        _stop_if_asked(outlet)


def finish_epoch(state: State, evaluate: Callable[[State], Scores], outlet: Outlet) -> None:
    """Evaluates, keeps the best, records, and saves the state with the sums of the next epoch at zero."""
    training = epoch_scores(state)
    scores = {**training, **evaluate(state)}
    score = (scores["val/top1"], -scores["val/loss"])
    if state.best is None or score > state.best:
        state.best = score
        save_weights(outlet.folder / "best.safetensors", state)
    outlet.record(state.step, scores)
    state.sums.zero_()
    save_checkpoint(outlet.folder, state, keep=outlet.keep)
    state.model.train()


def epoch_scores(state: State) -> dict[str, float]:
    """Loss and accuracy on the training images of the epoch so far. Waits for the device.

    Raises:
        VerdictError: if the loss is not finite, naming the step.
    """
    loss, correct, count = state.sums.tolist()
    if not math.isfinite(loss):
        raise VerdictError(
            f"the loss is {loss} at or shortly before step {state.step}: training stopped. Lower --lr, or set "
            "optim.clip_norm=1, or --precision fp32"
        )
    lr = state.optimizer.param_groups[0]["lr"]
    return {"train/loss": loss / max(count, 1), "train/top1": correct / max(count, 1), "train/lr": lr}


def _stop_if_asked(outlet: Outlet) -> None:
    number = outlet.stop_signal()
    if number:
        raise Interrupted("stopped on request; the state is saved", number)
