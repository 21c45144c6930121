"""A run with a given time ends with it, annealed and evaluated; killed and resumed, it takes the same steps again."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from linnaeus.app.config import make_config
from linnaeus.app.forecast import Forecast, Speed, steps_in_time, without_effect
from linnaeus.app.progress import Display
from linnaeus.app.train import train
from linnaeus.core.batch import Batch
from linnaeus.core.budget import Budget, Costs
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.core.record import read_records
from linnaeus.engine.checkpoint import checkpoints, load_newest, step_of
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.step import State, StepRule
from linnaeus.engine.train import Outlet
from linnaeus.engine.train import train as loop
from linnaeus.models import create_model
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import sgd
from linnaeus.optim.schedule import cosine

CPU = torch.device("cpu")
COSTS = Costs(evaluation=2.0, passes=2.0, closing=1.0)


class Clock:
    """A clock that goes when it is told to."""

    time = 0.0

    def __call__(self) -> float:
        return self.time


class Killed(Exception):
    """The process is gone."""


class Machine:
    """A loader of twenty batches an epoch and an evaluation, which take their time by the clock."""

    num_images, num_batches = 40, 20

    def __init__(self, clock: Clock, *, step: float = 1.0, evaluation: float = 2.0, dies_before: int = -1) -> None:
        self.clock, self.step_seconds, self.evaluation_seconds = clock, step, evaluation
        self.dies_before, self.evaluated = dies_before, []

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for number in range(start, self.num_batches):
            if epoch * self.num_batches + number == self.dies_before:
                raise Killed
            generator = torch.Generator().manual_seed(100 * epoch + number)
            images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8, generator=generator)
            self.clock.time += self.step_seconds
            yield Batch.of(images, torch.arange(2), torch.arange(2))

    def evaluate(self, state: State) -> tuple[dict[str, float], tuple[float, float]]:
        self.clock.time += self.evaluation_seconds
        self.evaluated.append(state.step)
        return {}, (float(state.step), 0.0)


def fresh() -> State:
    torch.manual_seed(0)
    model = create_model("lenet5", num_classes=5, in_channels=1, image_size=28)
    optimizer = sgd(param_groups(model, 0.0), lr=0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    return State(model, optimizer, None, torch.zeros(3, dtype=torch.float64))


def run_loop(folder: Path, machine: Machine, seconds: float, *, save_seconds: float = 1e9, patience: int = 0) -> State:
    """Trains by the clock of the machine, from where the folder stands."""
    folder.mkdir(exist_ok=True)
    state = fresh()
    if checkpoints(folder):
        load_newest(folder, state)
    budget = Budget(folder / "progress.f64", seconds=seconds, costs=COSTS, step=state.step, now=machine.clock)
    rule = StepRule(
        Preprocess(Geometry(28, 28, (0.5,), (0.5,))),
        partial(cross_entropy, label_smoothing=0.1),
        schedule=partial(cosine, warmup=0.05),
        total_steps=1,
        seed=0,
        budget=budget,
        patience=patience,
    )
    outlet = Outlet(folder, record=lambda *_: None, show=lambda *_: None, save_seconds=save_seconds)
    loop(state, machine, rule, device=CPU, evaluate=machine.evaluate, outlet=outlet)
    return state


@pytest.mark.parametrize("seconds", [60, 130])
def test_the_run_ends_with_its_time_annealed_and_evaluated(tmp_path, seconds):
    machine = Machine(Clock())
    state = run_loop(tmp_path / "run", machine, seconds)
    end = machine.clock.time + (COSTS.passes - 1) * COSTS.evaluation + COSTS.closing  # with what comes after the loop
    assert end == pytest.approx(seconds, rel=0.03)
    assert machine.evaluated[-1] == state.step
    assert state.optimizer.param_groups[0]["lr"] < 0.1 * 0.01
    if seconds == 130:
        assert machine.evaluated[:-1] == [20, 40, 60, 80, 100]


def test_a_time_shorter_than_an_epoch_is_evaluated_once_at_its_end(tmp_path):
    machine = Machine(Clock())
    state = run_loop(tmp_path / "run", machine, 15)
    assert machine.evaluated == [state.step] == [10]


def test_an_evaluation_without_time_is_left_out_and_the_last_one_is_not(tmp_path):
    machine = Machine(Clock(), step=1.0)
    # Steps end at 21 s; an evaluation after the 20th would end at 22.
    state = run_loop(tmp_path / "run", machine, 26)
    assert machine.evaluated == [state.step] == [21]


def test_a_killed_and_resumed_run_takes_the_steps_it_had_taken_again_with_their_progress(tmp_path):
    """Killed before step 50 and resumed by a machine ten times as fast, it is where it was, bit for bit."""
    clock, once = Clock(), tmp_path / "once"
    with pytest.raises(Killed):
        run_loop(once, Machine(clock, dies_before=50), 100)
    assert step_of(checkpoints(once)[0]) == 40
    # The same process, had it been saved just before it was killed.
    saved = tmp_path / "saved"
    with pytest.raises(Killed):
        run_loop(saved, Machine(Clock(), dies_before=50), 100, save_seconds=-1.0)
    expected = fresh()
    load_newest(saved, expected)
    assert expected.step == 50

    fast = Clock()
    fast.time = 1e6
    with pytest.raises(Killed):
        run_loop(once, Machine(fast, step=0.1, evaluation=0.2, dies_before=50), 100, save_seconds=-1.0)
    found = fresh()
    load_newest(once, found)
    assert found.step == 50
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name
    assert expected.optimizer.param_groups[0]["lr"] == found.optimizer.param_groups[0]["lr"]

    state = run_loop(once, Machine(fast, step=0.5), 100)
    assert state.step > 100  # twice as fast, it takes twice the steps in what was left
    assert state.optimizer.param_groups[0]["lr"] < 0.1 * 0.01


class Plateau(Machine):
    """Its second epoch is its best."""

    def evaluate(self, state: State) -> tuple[dict[str, float], tuple[float, float]]:
        super().evaluate(state)
        return {}, (float(state.step == 40), 0.0)


def test_patience_ends_a_run_before_its_time_and_at_the_same_step_when_it_is_killed(tmp_path):
    machine = Plateau(Clock())
    state = run_loop(tmp_path / "run", machine, 1000, patience=40)
    assert (state.step, state.best_step, state.stopped) == (80, 40, True)
    assert machine.evaluated == [20, 40, 60, 80]
    assert machine.clock.time == 80 + 4 * 2  # what is left of the time is not used
    assert state.optimizer.param_groups[0]["lr"] > 0.09  # nor is the rate annealed
    with pytest.raises(Killed):
        run_loop(tmp_path / "again", Plateau(Clock(), dies_before=70), 1000, patience=40)
    again = run_loop(tmp_path / "again", Plateau(Clock(), step=0.1), 1000, patience=40)
    assert (again.step, again.best_step, again.stopped) == (80, 40, True)


def test_the_time_ends_a_run_whose_patience_is_not_over_annealed_as_ever(tmp_path):
    machine = Plateau(Clock())
    state = run_loop(tmp_path / "run", machine, 130, patience=80)
    assert not state.stopped
    assert state.step < 120
    assert state.optimizer.param_groups[0]["lr"] < 0.1 * 0.01


def test_a_time_too_short_for_a_patience_is_told(tmp_path):
    budget = Budget(tmp_path / "progress.f64", seconds=100, costs=COSTS, step=0, now=Clock())
    preprocess = Preprocess(Geometry(28, 28, (0.5,), (0.5,)))
    rule = partial(StepRule, preprocess, cross_entropy, schedule=partial(cosine, warmup=0.05), seed=0)
    said = without_effect(rule(total_steps=50, budget=budget, patience=30), 20)
    assert "train.patience will hardly end this run: its time has room for about 2.5 epochs" in said
    assert without_effect(rule(total_steps=50, budget=budget, patience=29), 20) == ""
    assert without_effect(rule(total_steps=50, budget=budget), 20) == ""
    assert without_effect(rule(total_steps=50, patience=30), 20) == ""


def test_a_forecast_counts_epochs_and_what_is_evaluated():
    first, later = Speed(3.0, 2.0, 0.5), Speed(0.0, 1.0, 0.0)
    found = Forecast(first, later, 1.0, Costs(5.0, 3.0, 4.0), steps_per_epoch=10, spent=7.0, measuring=1.0)
    assert found.seconds(10) == 7 + 3 + 10 * 2 + 3 * 5 + 4
    assert found.seconds(25) == 7 + 3 + 10 * 2 + 15 * 1 + (2 + 3) * 5 + 4
    assert found.steps(found.seconds(25)) == 25
    assert found.steps(found.seconds(25) - 0.1) == 24
    assert found.wait(10) == 0.5
    assert found.wait(30) == 10 * 2 * 0.5 / 40
    with pytest.raises(RequestError, match="20s is too short: 7 s have passed before training, and one step"):
        steps_in_time(found, Duration.parse("20s"))


SETTINGS = {
    "data": {"source": "animals"},
    "model": {"name": "lenet5_modern"},
    "train": {"precision": "fp32", "channels_last": False},
}


@pytest.mark.slow
def test_a_real_run_of_half_a_minute_ends_within_three_per_cent(tmp_path):
    began = time.monotonic()
    config = make_config({**SETTINGS, "train": {**SETTINGS["train"], "duration": "30s"}})
    run = train(config, out=tmp_path / "run", display=Display(quiet=True), began=began)
    assert time.monotonic() - began == pytest.approx(30, rel=0.03)
    last = read_records(run.folder)[-1]
    assert last["train/lr"] < 0.01 * 0.05
    assert last["val/top1"] > 0.75
