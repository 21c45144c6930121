"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from linnaeus.core.batch import Batch, Loader
from linnaeus.core.errors import EnvironmentFault, Interrupted, NotFinite, Unstable
from linnaeus.engine.checkpoint import BEST, checkpoints, load_newest, save_checkpoint, step_of, write_weights
from linnaeus.engine.epochs import Pick, epoch_path, forget_epochs
from linnaeus.engine.guard import PATIENCE, are_finite
from linnaeus.engine.step import State, StepRule, take_step

Scores = Mapping[str, float]
Rank = tuple[float, float]
"""How good a state is, the larger the better: the second number decides between equal first ones."""
Step = Callable[[State, Batch, StepRule], None]
"""Trains on one batch, as `take_step` does."""
Evaluate = Callable[[State], tuple[Scores, Rank]]
"""The scores on val for the record, and the rank that chooses the best state."""
RETRY_SECONDS = 30.0
"""How soon a state is saved again where that failed."""
MAX_ROLLBACKS = 8
"""Halvings of the learning rate after which a run that goes back is stopped."""


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
        epochs: whose weights are kept as well, to be averaged; None for those of the best state alone.
    """

    folder: Path
    record: Callable[[int, Scores], None]
    show: Callable[[int, Scores], None]
    stop_signal: Callable[[], int] = field(default=lambda: 0)
    save_seconds: float = 300.0
    look_seconds: float = 0.5
    keep: int = 2
    epochs: Pick | None = None


class Keeper:
    """Saves the state and the best weights. Where that fails, as on a full disk, nothing earlier is lost."""

    def __init__(self, outlet: Outlet, note: Callable[[str], None]) -> None:
        """Begins the time until the first checkpoint."""
        self._outlet, self._note = outlet, note
        self._next = time.monotonic() + outlet.save_seconds
        self._unsaved: dict[Path, tuple[dict[str, Tensor], int]] = {}
        self._is_saved = True

    @property
    def is_time(self) -> bool:
        """Whether the last checkpoint is too old."""
        return time.monotonic() > self._next

    def remember(self, state: State, rank: Rank) -> None:
        """Takes the weights of now for the best if they are, and for those of an epoch to keep.

        `save` writes them, always before a state that knows of them.
        """
        folder, epochs = self._outlet.folder, self._outlet.epochs
        places = []
        if state.best is None or rank > state.best:
            state.best, state.best_step = rank, state.step
            places.append(folder / BEST)
        if epochs is not None:
            state.ranked.append((state.step, rank))
            kept = {folder / BEST, *(epoch_path(folder, step) for step in epochs.steps(state.ranked))}
            self._unsaved = {path: weights for path, weights in self._unsaved.items() if path in kept}
            places += kept & {epoch_path(folder, state.step)}
        if places:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in state.judged.state_dict().items()}
            self._unsaved |= dict.fromkeys(places, (weights, state.step))

    def save(self, state: State) -> None:
        """Saves what there is, or says why not and lets training go on: it will be tried again soon."""
        self._is_saved = False
        try:
            for path, weights in list(self._unsaved.items()):
                write_weights(path, *weights)
                del self._unsaved[path]
            save_checkpoint(self._outlet.folder, state, keep=self._outlet.keep)
            if self._outlet.epochs is not None:
                forget_epochs(self._outlet.folder, state.ranked, self._outlet.epochs)
        except (OSError, EnvironmentFault) as error:
            self._next = time.monotonic() + min(RETRY_SECONDS, self._outlet.save_seconds)
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            self._note(f"the state of step {state.step:,} could not be saved: {reason}. It will be tried again")
        else:
            self._next = time.monotonic() + self._outlet.save_seconds
            self._is_saved = True

    def stop_if_asked(self) -> None:
        """Ends the run where a signal asked for it; to be called when the state was saved."""
        number = self._outlet.stop_signal()
        if number:
            raise Interrupted(f"stopped on request; {self._where()}", number)

    def finish(self, state: State) -> None:
        """Tries a last time to save what could not be saved.

        Raises:
            EnvironmentFault: if it fails again.
        """
        if not self._is_saved:
            self.save(state)
        if not self._is_saved:
            raise EnvironmentFault(f"training is done, and {self._where()}: make room on the disk")

    def go_back(self, state: State) -> None:
        """Restores the state of `state.anchor` and forgets all that came later."""
        found = {step_of(path): path for path in checkpoints(self._outlet.folder)}
        if state.anchor in found:  # else its disk was full, and what there is must do
            for step in found.keys() - range(state.anchor + 1):
                found[step].unlink()
        for problem in load_newest(self._outlet.folder, state):
            self._note(f"passed over: {problem}")

    def _where(self) -> str:
        if self._is_saved:
            return "the state is saved"
        newest = next(iter(checkpoints(self._outlet.folder)), None)
        older = "there is no earlier one" if newest is None else f"the newest is that of step {step_of(newest):,}"
        return f"the state could not be saved; {older}"


def train(
    state: State,
    loader: Loader,
    rule: StepRule,
    *,
    device: torch.device,
    evaluate: Evaluate,
    outlet: Outlet,
    step: Step = take_step,
) -> None:
    """Trains from wherever `state` stands to the last step.

    At the end of each epoch, and of the run, the network is evaluated and saved; the best one is kept as
    `best.safetensors`. Where the rule has a patience and no better state comes in that time, the run ends. The batches,
    the draws and the learning rate of a step depend on its number alone, or under a budget on its recorded progress, so
    a state restored from any checkpoint goes on as if it had never stopped.

    Args:
        evaluate: as above; it may raise `Interrupted` where a signal asked to stop.
        step: `take_step`, or something around it that looks on and changes nothing.

    Raises:
        Interrupted: after saving, when a signal asked to stop.
        Unstable: when training went astray, and the rule is to stop or all else was tried; what was saved before stays.
        EnvironmentFault: when memory is too small, or the last state cannot be saved.
    """
    state.model.train()
    keeper = Keeper(outlet, rule.note)
    if rule.on_nonfinite == "rollback" and state.step == 0:
        state.anchor = 0
        keeper.save(state)
    looked = time.monotonic()
    while state.due or not (state.stopped or rule.is_over(state.step)):
        try:
            epoch, start = divmod(state.step, loader.num_batches)
            for batch in [] if state.due else loader.epoch(epoch, start):
                way = state.way
                step(state, batch.to(device), rule)
                if time.monotonic() - looked > outlet.look_seconds:
                    outlet.show(state.step, epoch_scores(state, rule))
                    looked = time.monotonic()
                if state.step % loader.num_batches == 0 or rule.is_over(state.step):
                    break  # saved below, after the evaluation: a state saved here would resume without it
                if keeper.is_time or outlet.stop_signal() or state.way != way:
                    check_finite(state, rule)  # a state that is not finite is not worth keeping
                    keeper.save(state)
                    keeper.stop_if_asked()
            if not (state.due or rule.is_over(state.step) or rule.allows_evaluation(state.step)):
                continue  # a budget has time left for steps and for the evaluation at the end, but for no other
            finish_epoch(state, rule, evaluate, outlet, keeper)
        except Unstable as fault:
            if rule.on_nonfinite != "rollback" or state.rollbacks == MAX_ROLLBACKS:
                raise
            roll_back(state, rule, keeper, fault)
        keeper.stop_if_asked()
    keeper.finish(state)


def finish_epoch(state: State, rule: StepRule, evaluate: Evaluate, outlet: Outlet, keeper: Keeper) -> None:
    """Evaluates, keeps the best, records, and saves the state with the sums of the next epoch at zero."""
    training = epoch_scores(state, rule) if state.step else {}  # before the first step only a head was fitted
    check_finite(state, rule)
    state.due = True
    try:
        scores, rank = evaluate(state)
    except Interrupted:
        keeper.save(state)
        keeper.stop_if_asked()
        raise
    state.due = False
    keeper.remember(state, rank)
    state.stopped = 0 < rule.patience <= state.step - state.best_step
    outlet.record(state.step, {**training, **scores})
    state.sums.zero_()
    state.faults[0] = 0
    if rule.on_nonfinite == "rollback":
        state.anchor = state.step
    keeper.save(state)
    state.model.train()


def roll_back(state: State, rule: StepRule, keeper: Keeper, fault: Unstable) -> None:
    """Goes back to where the epoch began, and from there on with half the learning rate.

    To that state, and to no later one that happens to have been saved: where a run goes on from must not depend on how
    fast it was. It is saved at once, so that a kill does not undo the halving.
    """
    number = state.step
    keeper.go_back(state)
    state.rollbacks += 1
    state.model.train()
    keeper.save(state)
    rule.note(
        f"{fault}. Back from step {number:,} to step {state.step:,}, with 1/{2**state.rollbacks} of the learning rate"
    )


def epoch_scores(state: State, rule: StepRule) -> dict[str, float]:
    """Loss and `rule.measure` on the training images of the epoch so far. Waits for the device.

    Raises:
        NotFinite: if the loss is not finite, naming the step.
        Unstable: if there was a spike and the rule is not to skip it, or more steps in a row were skipped than a bad
            batch explains.
    """
    loss, right, count = state.sums.tolist()
    if not math.isfinite(loss):
        raise NotFinite(f"the loss is {loss} at or shortly before step {state.step}")
    left_out, _, longest, usual, _ = state.faults.tolist()
    skips = rule.on_nonfinite == "skip"
    if longest >= PATIENCE:
        spike = f", or the loss over {rule.spike:g} times the usual" if rule.spike else ""
        raise Unstable(
            f"{PATIENCE} steps in a row had to be skipped at or shortly before step {state.step}: loss or gradient was "
            f"not finite{spike}. Lower --lr, or set optim.clip_norm=1"
        )
    if left_out and not skips:
        raise Unstable(
            f"the loss rose over {rule.spike:g} times the usual {usual:.4g} at or shortly before step {state.step}. "
            "Lower --lr, set optim.clip_norm=1, or train.on_nonfinite=skip"
        )
    lr = max(group["lr"] for group in state.optimizer.param_groups)  # that of the head, where layers differ
    scores = {"train/loss": loss / max(count, 1), f"train/{rule.measure}": right / max(count, 1), "train/lr": lr}
    return {**scores, "train/skipped": left_out} if skips else scores


def check_finite(state: State, rule: StepRule) -> None:
    """Whether the state is worth keeping. Waits for the device.

    Raises:
        NotFinite: if a weight or a statistic is not finite: a gradient can be at fault and the loss not show it yet.
        Unstable: as `epoch_scores`.
    """
    epoch_scores(state, rule)
    if not are_finite(list(state.model.state_dict().values())):
        raise NotFinite(f"the weights are not finite at or shortly before step {state.step}")
