"""One trial of a search: a training like any other, judged on val, that leaves nothing but its scores."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from linnaeus.app.begin import Beginning
from linnaeus.app.judge import Judge
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve
from linnaeus.app.run import Run
from linnaeus.app.search import Tried
from linnaeus.app.space import Value, with_values
from linnaeus.app.train import open_state
from linnaeus.core.batch import Batch
from linnaeus.core.errors import RequestError, Unstable
from linnaeus.engine.step import State, StepRule, take_step
from linnaeus.engine.train import Outlet, Rank, Scores
from linnaeus.engine.train import train as train_loop


@dataclass(frozen=True)
class Limits:
    """What ends a trial before its last step, and who is told how far it is.

    Attributes:
        deadline: by the monotonic clock.
        is_hopeless: (evaluations so far, the last score) -> whether it is given up.
        show: is told what share of the trial is done, and what to say of it.
    """

    deadline: float
    is_hopeless: Callable[[int, float], bool]
    show: Callable[[float, str], None]


class _Ended(Exception):
    """A trial was given up, and why."""


@dataclass
class _Watch:
    """The evaluation and the steps of a training, which end it at its limits."""

    judge: Judge
    limits: Limits
    ranks: list[Rank] = field(default_factory=list)
    measure: str = ""

    def evaluate(self, state: State) -> tuple[Scores, Rank]:
        scores, rank = self.judge(state)
        self.ranks.append(rank)
        self.measure = self.measure or next(iter(scores))
        if self.limits.is_hopeless(len(self.ranks), rank[0]):
            raise _Ended("pruned: behind the median of earlier trials")
        return scores, rank

    def step(self, state: State, batch: Batch, rule: StepRule) -> None:
        if time.monotonic() > self.limits.deadline:
            raise _Ended("the time of the search was over")
        take_step(state, batch, rule)


def attempt(begun: Beginning, number: int, values: dict[str, Value], *, folder: Path, limits: Limits) -> Tried:
    """Trains with some settings changed, to the end or to its limits, or until it goes astray.

    Args:
        begun: what all trials share.
        number: of the trial.
        folder: for states, such as training goes back to; it is made, and removed with what is in it.
    """
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was killed
    try:
        config = resolve(with_values(begun.config, values), begun.prepared)
    except RequestError as error:  # values that are fit alone, and not together
        return Tried(number, values, (), time.monotonic() - began, ended=f"refused: {error}")
    changed = replace(begun, config=config, images=begun.images.under(config))
    watch = _Watch(Judge(changed, lambda _: {}, lambda: 0, lambda _: None), limits)
    ended = ""
    try:
        _train(changed, folder, watch)
    except (_Ended, Unstable) as reason:
        ended = str(reason)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    curve = tuple(score for score, _ in watch.ranks)
    second = max(watch.ranks)[1] if watch.ranks else 0.0
    return Tried(number, values, curve, time.monotonic() - began, watch.measure, second, ended)


def _train(begun: Beginning, folder: Path, watch: _Watch) -> None:
    run = Run(folder)
    run.checkpoints.mkdir(parents=True)
    state = open_state(run, begun, Display(quiet=True))
    loader = begun.images.training()
    rule = begun.rule(loader)

    def show(step: int, scores: Scores) -> None:
        watch.limits.show(step / rule.total_steps, f"loss {scores['train/loss']:.3f}")

    outlet = Outlet(run.checkpoints, record=show, show=show, save_seconds=begun.config.checkpoint.seconds)
    train_loop(state, loader, rule, device=begun.device, evaluate=watch.evaluate, outlet=outlet, step=watch.step)
