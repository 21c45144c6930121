"""How long a run will take: from a few of its own steps and evaluations, taken on a copy that is thrown away."""

import tempfile
import time
from bisect import bisect_right
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from linnaeus.app.begin import Beginning
from linnaeus.app.build import make_state
from linnaeus.app.linear import looked_at
from linnaeus.app.progress import Display
from linnaeus.core.budget import Budget, Costs
from linnaeus.core.device import autocast, synchronize
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.data.loader import watched_workers
from linnaeus.data.suspects import check_possible
from linnaeus.deploy.views import NUM_VIEWS
from linnaeus.engine.autotune import Speed, time_steps
from linnaeus.engine.checkpoint import save_checkpoint, save_weights
from linnaeus.engine.guard import compile_in_place
from linnaeus.engine.step import State, StepRule
from linnaeus.optim.average import STATISTICS_IMAGES

JOURNAL = "progress.f64"
SECONDS = 3.0
"""How long steps are measured, and how long an evaluation is; at least one of each is."""
SHARE = 0.02
"""And no more than this share of a given time."""
CLOSING = 1.4
"""Seconds from the last evaluation to the end for all that is not evaluation: files, tables, a page and its figures."""


@dataclass(frozen=True)
class Forecast:
    """What was measured. Decoded images may be kept, and then a later epoch is faster than the first.

    Attributes:
        busy: how many cores make batches meanwhile, in a later epoch.
        spent: seconds from the beginning of the command to the first step, as far as it is known now: to the end of the
            measurement, and for a head that is fitted.
        measuring: seconds that the measurement took of these.
    """

    first: Speed
    later: Speed
    busy: float
    costs: Costs
    steps_per_epoch: int
    spent: float
    measuring: float

    def seconds(self, steps: int) -> float:
        """How long the whole command takes with so many steps."""
        evaluations = -(-steps // self.steps_per_epoch) - 1 + self.costs.passes
        early = min(steps, self.steps_per_epoch)
        training = self.first.start + early * self.first.step + (steps - early) * self.later.step if steps else 0.0
        return self.spent + training + evaluations * self.costs.evaluation + self.costs.closing

    def steps(self, seconds: float) -> int:
        """How many steps fit into a command of so many seconds; 0 if not even one does."""
        return bisect_right(range(1, 10**12), seconds, key=self.seconds)

    def wait(self, steps: int) -> float:
        """Share of the training time in which batches are waited for."""
        early = min(steps, self.steps_per_epoch) * self.first.step
        late = max(0, steps - self.steps_per_epoch) * self.later.step
        return (early * self.first.wait + late * self.later.wait) / (early + late) if steps else 0.0


def with_forecast(begun: Beginning, display: Display) -> Beginning:
    """Where a run is given a time: says what fits into it, and keeps what `under_budget` needs in `about`.

    Raises:
        RequestError: if not even one step does.
    """
    run = Duration.parse(begun.config.train.duration)
    if not run.is_time:
        return begun
    found = forecast(begun, limit=min(SECONDS, SHARE * run.amount))
    steps = steps_in_time(found, run)
    display.say(f"about {steps:,} steps ({steps / found.steps_per_epoch:.1f} epochs) fit into {run}")
    return replace(begun, about={**begun.about, "budget": {"steps": steps, **asdict(found.costs)}})


def steps_in_time(found: Forecast, run: Duration) -> int:
    """How many steps a run of so much time has.

    Raises:
        RequestError: if not even one step fits into it.
    """
    steps = found.steps(run.amount)
    if steps == 0:
        raise RequestError(
            f"{run} is too short: {found.spent:.0f} s have passed before training, and one step with the evaluation at "
            f"the end takes {found.seconds(1) - found.spent:.0f} s. Give more time, or epochs (1ep)"
        )
    return steps


def under_budget(rule: StepRule, begun: Beginning, folder: Path, step: int) -> StepRule:
    """The rule of a run that is given a time, from `step` on, with its journal in `folder`; any other as it is."""
    run = Duration.parse(begun.config.train.duration)
    if not run.is_time:
        return rule
    costs = dict(begun.about["budget"])
    steps, elapsed = costs.pop("steps"), time.monotonic() - begun.began
    budget = Budget(folder / JOURNAL, seconds=run.amount, costs=Costs(**costs), step=step, elapsed=elapsed)
    return replace(rule, total_steps=steps, budget=budget)


def without_effect(rule: StepRule, steps_per_epoch: int) -> str:
    """That a given time is too short for the rule's patience to end the run, as far as can be foreseen, or ""."""
    if rule.budget is None or not 0 < rule.patience >= rule.total_steps - steps_per_epoch:
        return ""
    epochs = f"{rule.total_steps / steps_per_epoch:.1f} epochs"
    return f"train.patience will hardly end this run: its time has room for about {epochs}, and it waits nearly as long"


def forecast(begun: Beginning, *, limit: float = SECONDS) -> Forecast:
    """Measures steps and an evaluation, `limit` seconds or little more of each. Nothing of it reaches the run."""
    with suppress(RequestError):  # first: what it imports is needed by the run as well, and is not part of measuring
        check_possible(begun.prepared.source.labels)
    began = time.monotonic()
    state = make_state(begun.config, len(begun.prepared.classes), begun.device)
    if begun.config.train.compile:
        compile_in_place(state.model)
    with watched_workers():
        loader = begun.images.training()
        first = later = time_steps(state, loader, begun.rule(loader), device=begun.device, limit=limit)
        busy = loader.busy
        if begun.config.data.cache_gib:  # the same batches once more, from the cache of decoded images
            again = begun.images.training()
            later = time_steps(state, again, begun.rule(again), device=begun.device, limit=limit)
            busy = again.busy
        evaluation, start = _measure_evaluation(state, begun, limit)
    loaders = 3 + (begun.config.train.tta != "none") + 2 * (begun.config.optim.average > 0)  # each starts its processes
    costs = Costs(evaluation, _passes(begun), CLOSING + loaders * start)
    now, val = time.monotonic(), len(begun.prepared.split.indices("val"))
    spent = now - begun.began + _head_start(begun, evaluation / val)
    return Forecast(first, later, busy, costs, loader.num_batches, spent, now - began)


def _passes(begun: Beginning) -> float:
    """Evaluations after the last step, in multiples of one on val: the last one, then those of what is delivered."""
    train, val, test = (len(begun.prepared.split.indices(role)) for role in ("train", "val", "test"))
    tta = begun.config.train.tta
    passes = 1 + NUM_VIEWS[tta] * (1 + test / val)
    passes += 1 if tta != "none" else 0  # what it brings
    passes += 1 + min(train, STATISTICS_IMAGES) / val if begun.config.optim.average else 0
    return passes


def _head_start(begun: Beginning, seconds: float) -> float:
    """How long it takes to fit a head and to evaluate it, given the seconds of an evaluation an image."""
    if not begun.config.train.head_start:
        return 0.0
    train, val = (len(looked_at(begun.prepared, role)) for role in ("train", "val"))
    return seconds * (train + val + len(begun.prepared.split.indices("val")))


@torch.inference_mode()
def _measure_evaluation(state: State, begun: Beginning, limit: float) -> tuple[float, float]:
    """Seconds of an evaluation on val, from its first batches, with a checkpoint; and those until the first batch."""
    config, images, device = begun.config, begun.images, begun.device
    network, loader = state.judged.eval(), images.evaluation("val")
    began = time.monotonic()
    start, done = 0.0, 0
    for batch in loader.epoch(0):
        start = start or time.monotonic() - began
        with autocast(device, "bf16" if config.train.precision == "bf16" else "fp32"):
            network(images.preprocess(batch.images.to(device)))
        done += 1
        if time.monotonic() - began > limit:
            break
    synchronize(device)
    seconds = (time.monotonic() - began - start) / done * loader.num_batches
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        save_checkpoint(Path(folder), state, keep=1)
        save_weights(Path(folder) / "best.safetensors", state)
        seconds += time.monotonic() - began
    return seconds, start
