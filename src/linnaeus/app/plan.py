"""What a search is before its first trial: a new one, or one that goes on."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linnaeus.app.begin import Beginning, begin
from linnaeus.app.config import Config, make_config
from linnaeus.app.dry_run import in_time
from linnaeus.app.forecast import Forecast, forecast
from linnaeus.app.images import Images
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.run import Run, from_anywhere, locked
from linnaeus.app.space import Space, check_space, default_space, make_space, without, written
from linnaeus.core.device import pick
from linnaeus.core.duration import Duration
from linnaeus.core.errors import DataError, EnvironmentFault, RequestError
from linnaeus.core.files import read_json, write_json

KIND, VERSION = "linnaeus-tune", 1
ABOUT = "tune.json"
DEFAULT_TIME = "1h"
TRIALS = 12
"""Whole trials that a given time should have room for; pruning makes room for more."""
USUAL = "20ep"
"""What a trial is cut from where training itself is given a time."""
CLOSING = 2.0
"""Seconds for what comes after the last trial: tables and pictures."""


@dataclass(frozen=True)
class Wish:
    """What was asked of a search; None for what was not.

    Attributes:
        fixed: settings, as `section.key`, that were given by name and so are not searched.
        space: as `make_space` takes it.
        duration: of the whole search, as a time.
        trials: how many, that with the defaults included.
    """

    fixed: frozenset[str] = frozenset()
    space: Mapping[str, Any] | None = None
    duration: str | None = None
    trials: int | None = None

    @property
    def seconds(self) -> float | None:
        """The time that is given; None where only a number of trials is.

        Raises:
            RequestError: if it is not a time.
        """
        if self.duration is None and self.trials is not None:
            return None
        duration = Duration.parse(self.duration or DEFAULT_TIME)
        if not duration.is_time:
            raise RequestError(
                f"--duration {self.duration}: expected the time of the whole search, such as 1h or 20min"
            )
        return duration.amount


@dataclass(frozen=True)
class Plan:
    """A search before its first trial of this command.

    Attributes:
        about: the content of `tune.json`.
        begun: what all trials share, with the complete configuration of a trial.
        expected: seconds that a whole trial takes, by the forecast; None where that was not made.
    """

    about: Mapping[str, Any]
    begun: Beginning
    expected: float | None = None

    def write(self, folder: Path, *, over: bool) -> None:
        """Writes `tune.json`; `over` says that the search came to its end."""
        write_json(folder / ABOUT, KIND, VERSION, {**self.about, "over": over})

    @property
    def given(self) -> Config:
        """The configuration as the search was told it."""
        return make_config(self.about["given"])

    @property
    def space(self) -> Space:
        """What is searched."""
        return make_space(self.about["space"])

    @property
    def evaluations(self) -> int:
        """Of a trial that comes to its end."""
        epoch = self.begun.images.training().num_batches
        return -(-Duration.parse(self.begun.config.train.duration).steps(steps_per_epoch=epoch) // epoch)


def begin_search(config: Config, wish: Wish, display: Display, began: float) -> Plan:
    """Prepares a new search. Writes nothing but caches."""
    seconds, train = wish.seconds, config.train
    asked = None if wish.space is None else make_space(wish.space)
    both = sorted(wish.fixed & (asked or {}).keys())
    if both:
        raise RequestError(f"{both[0]} is fixed, and in the space: leave out one of them")
    if config.record.microscope:
        raise RequestError("record.microscope has no effect on a search, which keeps no records: leave it out")
    duration = Duration.parse(train.duration)
    if duration.is_time and "train.duration" in wish.fixed:
        raise RequestError(f"train.duration={train.duration}: expected the epochs or steps of a trial, such as 5ep")
    # A trial is too short for compiling to pay, and trials must be counted in steps to be alike.
    usual = {"compile": bool(train.compile), "duration": USUAL if duration.is_time else train.duration}
    begun = begin(config.replace(train=usual), display=display, began=began)
    space = without(asked or default_space(begun.config, len(begun.prepared.classes)), wish.fixed)
    check_space(space, begun.config, begun.prepared)  # before anything is measured
    found = forecast(begun)
    if seconds is not None:
        left = seconds - CLOSING - (time.monotonic() - began)
        length = fit(found, begun.config.train.duration, left, wish)
        begun = replace(begun, config=begun.config.replace(train={"duration": length}))
        check_space(space, begun.config, begun.prepared)  # what a whole trial allows need not fit into a shorter one
    about = {
        **_question(config, wish),
        "trial": begun.config.model_dump(),
        "space": written(space),
        "data_fingerprint": begun.prepared.fingerprint,
    }
    steps = Duration.parse(begun.config.train.duration).steps(steps_per_epoch=found.steps_per_epoch)
    return Plan(about, begun, trial_seconds(found, steps))


def fit(found: Forecast, duration: str, left: float, wish: Wish) -> str:
    """How long a trial is, so that at least `TRIALS` whole ones take `left` seconds; what was fixed is left as it is.

    Raises:
        RequestError: if not even one of the shortest fits.
    """
    epoch = found.steps_per_epoch
    steps = Duration.parse(duration).steps(steps_per_epoch=epoch)
    number = min(TRIALS, wish.trials or TRIALS)
    is_fixed = "train.duration" in wish.fixed
    shortest = steps if is_fixed else min(steps, epoch)
    if trial_seconds(found, shortest) > left:
        raise RequestError(
            f"the search has {in_time(max(0.0, left))} for its trials, and one of {duration if is_fixed else '1ep'} "
            f"takes {in_time(trial_seconds(found, shortest))}: give a longer --duration"
        )
    if is_fixed or number * trial_seconds(found, steps) <= left:
        return duration
    epochs = max(n for n in range(1, 2 + steps // epoch) if n == 1 or number * trial_seconds(found, n * epoch) <= left)
    return f"{epochs}ep" if epochs * epoch < steps else duration


def trial_seconds(found: Forecast, steps: int) -> float:
    """How long a trial of so many steps takes."""
    evaluations = -(-steps // found.steps_per_epoch)
    return found.first.start + steps * found.later.step + evaluations * found.costs.evaluation


def stopped_search(parent: Path, config: Config, wish: Wish) -> Path | None:
    """The newest folder in `parent` of a search for just the same that was stopped or killed, and that is in no use."""
    question = json.loads(json.dumps(_question(config, wish), default=str))
    found = []
    for file in parent.glob(f"*/{ABOUT}"):
        with suppress(RequestError, EnvironmentFault):  # it is in use, or no file of a search
            about = read_json(file, KIND, VERSION)
            if not about.get("over", True) and question.items() <= about.items():
                with locked(Run(file.parent)):
                    found.append((file.stat().st_mtime_ns, file.parent))
    return max(found)[1] if found else None


def _question(config: Config, wish: Wish) -> dict[str, Any]:
    """All that a search was asked for, as `tune.json` has it."""
    return {
        "given": config.replace(data=_placed(config)).model_dump(),
        "fixed": sorted(wish.fixed),
        "asked_space": wish.space,
        "duration": wish.duration,
        "trials": wish.trials,
    }


def _placed(config: Config) -> dict[str, Any]:
    return {"source": from_anywhere(config.data.source)}


def go_on(folder: Path, config: Config, wish: Wish, display: Display, began: float) -> Plan:
    """Prepares to go on with a search.

    Raises:
        RequestError: if something else is asked of it than what it began with.
        DataError: if the images are not those it began with.
    """
    about = read_json(folder / ABOUT, KIND, VERSION)
    del about["format"], about["version"]
    plain = make_config({"data": {"source": config.data.source}})
    asked = config.replace(data=_placed(config)).model_dump()
    same = {"data": {"source": asked["data"]["source"]}} if config == plain else asked
    for section, settings in same.items():
        for key, value in settings.items():
            if (before := about["given"][section][key]) != value:
                raise _differs(folder, f"{section}.{key}={before}", f"{value}")
    if wish.space is not None and (space := written(without(make_space(wish.space), wish.fixed))) != about["space"]:
        raise _differs(folder, f"the space {about['space']}", f"{space}")
    if wish.duration or wish.trials:
        about |= {"duration": wish.duration, "trials": wish.trials}
    trial = make_config(about["trial"])
    prepared = prepare(trial.data, seed=trial.train.seed, display=display)
    if prepared.fingerprint != about["data_fingerprint"]:
        raise DataError(f"the images of {trial.data.source} have changed since {folder} began: choose another --out")
    device = pick(trial.train.device)
    return Plan(about, Beginning(trial, prepared, Images(trial, prepared, display), device, began, {}))


def _differs(folder: Path, before: str, now: str) -> RequestError:
    return RequestError(f"{folder} began with {before}, and now {now} is asked: choose another --out, or leave it out")
