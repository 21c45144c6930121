"""Hyper-parameter search: many short trainings on the same images, judged on val, and the winner as a file of settings.

The test images are never looked at. What a search leaves in its folder:

| file | content |
|---|---|
| `tune.json` | what all trials share, and the space |
| `journal.jsonl` | every trial with its scores, as Optuna writes them; a stopped search goes on from it |
| `best.yaml` | all settings of the best trial so far, for `linnaeus train --config` |
| `trials.csv` | a row a trial |
| `history.svg`, `importance.svg` | how the best score rose, and which settings mattered |
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

from linnaeus.app.config import Config
from linnaeus.app.plan import ABOUT, CLOSING, Plan, Wish, begin_search, go_on, stopped_search
from linnaeus.app.progress import Display
from linnaeus.app.run import Run, check_free, command_line, create_run, locked
from linnaeus.app.search import Search, Tried, check_installed
from linnaeus.app.signals import stop_signals
from linnaeus.app.space import includes, value_in
from linnaeus.app.trial import Limits, attempt
from linnaeus.app.winner import Winner, best_table, draw, in_short, verdict, write_best
from linnaeus.core.errors import EnvironmentFault, Interrupted, VerdictError
from linnaeus.data.loader import watched_workers

PARENT = "tune"
"""The folder of the searches that were given none of their own."""
BAR = 1000
"""Parts of the bar, which shows what share of the time or of the trials is over."""


@dataclass(frozen=True)
class Clock:
    """When a search ends, and how far it is.

    Attributes:
        began, end: by the monotonic clock; infinite where no time was given.
        trials: how many there may be; None for any number.
        bar: of parts done, what is being done, and numbers.
    """

    began: float
    end: float
    trials: int | None
    bar: Callable[[int, str, str], None]

    def allows(self, number: int, expected: float) -> bool:
        """Whether trial `number`, which is expected to take so many seconds, should be begun."""
        fits = number == 0 or time.monotonic() + expected < self.end  # without the first there is nothing
        return fits and (self.trials is None or number < self.trials)

    def show(self, number: int, share: float, words: str) -> None:
        """Shows that a share of trial `number` is done."""
        done = [(time.monotonic() - self.began) / (self.end - self.began)]
        if self.trials is not None:
            done.append((number + share) / self.trials)
        self.bar(round(BAR * max(done)), f"trial {number}", words)


def tune(config: Config, wish: Wish, *, out: Path | None, display: Display, began: float) -> Winner:
    """Searches for settings that score better on val than those of `config`, which are the first trial.

    Args:
        out: the folder, where a search that is there already goes on. By default that of a search for just the same
            that was stopped or killed, and else a new one, `tune/<name>-<number>`.
        began: when the command began, by the monotonic clock, from where its time counts.

    Raises:
        LinnaeusError: any of `core/errors.py`; `Interrupted` after a signal, with all trials that were over saved.
    """
    check_installed()
    before = stopped_search(Path(PARENT), config, wish) if out is None else out
    if before is not None and (before / ABOUT).is_file():
        folder = before
        if out is None:
            display.say(f"going on with the search in {folder}, which was stopped; --out begins another one")
        with locked(Run(folder)), _resumable(config.data.source, folder):
            return _search(folder, go_on(folder, config, wish, display, began), display)
    check_free(out)
    plan = begin_search(config, wish, display, began)
    folder = create_run(out, config.data.source, parent=PARENT).folder
    with locked(Run(folder)), _resumable(config.data.source, folder):
        return _search(folder, plan, display)


@contextmanager
def _resumable(source: str, folder: Path) -> Iterator[None]:
    """Says how to go on, where the block is stopped."""
    try:
        with watched_workers(), stop_signals(lambda: None):
            yield
    except (Interrupted, EnvironmentFault) as stop:
        how = command_line("tune", source, "--out", folder)
        stop.add_note(f"The trials that were over are saved. Go on with:\n  {how}")
        raise


def _search(folder: Path, plan: Plan, display: Display) -> Winner:
    """Tries until the time or the trials are over, and writes what was found after each trial."""
    plan.write(folder, over=False)
    config, wish = plan.begun.config, Wish(duration=plan.about["duration"], trials=plan.about["trials"])
    display.say(f"searching {', '.join(plan.space)}; trials of {config.train.duration}; folder {folder}")
    search = Search(folder / "journal.jsonl", plan.space, seed=config.train.seed, evaluations=plan.evaluations)
    trials = search.trials()
    spent = sum(tried.seconds for tried in trials)
    end = inf if wish.seconds is None else plan.begun.began + wish.seconds - spent - CLOSING
    with display.training(BAR, 0) as bar:
        clock = Clock(time.monotonic() - spent, end, wish.trials, bar)
        while clock.allows(len(trials), _expected(plan, trials)):
            trials.append(_try(folder / "trial", plan, search, clock, number=len(trials)))
            winner = _winner(folder, plan, trials, {})
            write_best(winner, plan.given, config)
            if len(trials) == 1:
                draw(winner)  # what it imports takes seconds, which are not there after the last trial
            display.say(_in_words(trials[-1], winner))
    winner = _winner(folder, plan, trials, search.importances())
    drawn = draw(winner)
    plan.write(folder, over=True)
    display.show(best_table(winner))
    display.say(f"in {folder}: best.yaml, trials.csv, {', '.join(drawn)}")
    display.show(verdict(winner, plan.given.data.source))
    return winner


def _try(scratch: Path, plan: Plan, search: Search, clock: Clock, *, number: int) -> Tried:
    """Makes the next trial, and writes down what came of it.

    Raises:
        VerdictError: if that with the defaults does not come to its end: there is nothing to compare with then.
    """
    show = partial(clock.show, number)
    if number > 0:
        asked = search.ask(number)
        limits = Limits(clock.end, asked.report, show)
        tried = attempt(plan.begun, number, asked.values, folder=scratch, limits=limits)
        search.tell(asked, tried)
        return tried
    tried = attempt(plan.begun, 0, {}, folder=scratch, limits=Limits(clock.end, lambda *_: False, show))
    if tried.ended:
        raise VerdictError(f"the first trial, which has the defaults, did not come to its end: {tried.ended}")
    config, space = plan.begun.config, plan.space
    values = {path: value_in(config, path) for path in space}
    search.begin_with(tried, {path: v for path, v in values.items() if v is not None and includes(space[path], v)})
    return tried


def _expected(plan: Plan, trials: list[Tried]) -> float:
    """Seconds that a whole trial takes: as the longest one did, or before any as was forecast."""
    whole = [tried.seconds for tried in trials if not tried.ended]
    return max(whole, default=plan.expected or 0.0)


def _winner(folder: Path, plan: Plan, trials: list[Tried], importances: Mapping[str, float]) -> Winner:
    images = len(plan.begun.prepared.split.indices("val"))
    return Winner(folder, tuple(trials), plan.begun.config.train.duration, images, importances)


def _in_words(tried: Tried, winner: Winner) -> str:
    """A trial as a line."""
    outcome = tried.ended or ("best so far" if winner.best is tried else "")
    score = f"{winner.trials[0].measure} {tried.score:.1%}" if tried.curve else "not evaluated"
    return f"trial {tried.number:>3}  {score}  {in_short(tried.values)}" + (f"  ({outcome})" if outcome else "")
