"""A dry run says what a run takes, draws its schedule, and leaves nothing behind."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from linnaeus.app.config import make_config
from linnaeus.app.dry_run import dry_run, in_time
from linnaeus.app.forecast import forecast
from linnaeus.app.progress import Display
from linnaeus.core.errors import RequestError
from linnaeus.report.plots import columns

from .dots import draw_dots


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    """Sixty grey images of 28 pixels in two classes."""
    return draw_dots(tmp_path_factory.mktemp("dots"), 30)


@pytest.fixture
def quick(monkeypatch) -> None:
    """Short measurements, and none of the seconds that it takes to import what looks for wrong labels."""

    def refuse(_: object) -> None:
        raise RequestError("not here")

    monkeypatch.setattr("linnaeus.app.dry_run.forecast", partial(forecast, limit=0.05))
    monkeypatch.setattr("linnaeus.app.forecast.check_possible", refuse)


def plan(source: object, out: Path | None = None, **train: object) -> dict:
    content = {"precision": "fp32", "channels_last": False, "compile": False, "batch_size": 8, **train}
    config = make_config({"data": {"source": str(source)}, "model": {"name": "lenet5_modern"}, "train": content})
    return dry_run(config, out=out, display=Display(), began=time.monotonic())


def test_it_counts_steps_draws_the_schedule_and_writes_no_run(dots, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(dots, duration="10ep")
    train = 60 - 6 - 12
    assert found["steps"] == 10 * -(-train // 8)
    assert found["epochs"] == 10
    assert found["seconds"] > 0
    assert found["memory_bytes"] > 50e6
    assert 0 <= found["data_bound"] <= 1
    shown = capsys.readouterr().out
    assert "42 train, 6 val, 12 test" in shown
    assert "learning rate, cosine, over 60 steps" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_given_time_is_what_is_predicted(dots, quick):
    found = plan(dots, duration="1h")
    assert found["steps"] > 1000
    assert found["seconds"] == pytest.approx(3600, rel=0.01)


def test_a_time_without_room_for_a_step_is_refused(dots, quick):
    with pytest.raises(RequestError, match=r"^0.001s is too short: \d+ s have passed before training"):
        plan(dots, duration="0.001s")


def test_a_folder_that_is_taken_is_refused_before_anything_is_measured(dots, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError):
        plan(dots, out=tmp_path, duration="1ep")


def test_columns_are_as_high_as_their_values():
    drawn = columns([0.0, 0.01, 0.5, 1.0], height=2, label="0.1", below="rate").splitlines()
    assert drawn == ["0.1 │   █", "  0 │ ▁██", "    └────", "     rate"]
    assert columns([0.0, 0.0], height=1, label="0", below="x").splitlines()[0] == "0 │"


def test_times_are_said_in_the_unit_that_fits():
    said = [in_time(seconds) for seconds in (0.25, 41.2, 59.7, 185, 3599.9, 7800)]
    assert said == ["0.2 s", "41 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 10 min"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lenet5_modern", "resnet20"])
def test_a_real_run_takes_what_was_predicted_within_fifteen_per_cent(tmp_path, model):
    """One of three pairs will do: other work on the machine may come to one side of a pair alone."""
    words = ["animals", "--model", model, "--precision", "fp32", "--duration", "330st", "--json"]
    command = [sys.executable, "-m", "linnaeus", "train", *words]
    pairs = []
    for attempt in range(3):
        said = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
        plan = json.loads(said.stdout.splitlines()[-1])
        found = real_run([*command, "--out", str(tmp_path / str(attempt))])
        pairs.append([(plan[name], found[name]) for name in found])
        if all(expected == pytest.approx(real, rel=0.15) for expected, real in pairs[-1]):
            return
    pytest.fail(f"predicted and real seconds and bytes: {pairs}")


def real_run(command: list[str]) -> dict[str, float]:
    """What a run takes."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return {"seconds": time.monotonic() - began, "memory_bytes": usage.ru_maxrss * 1024}
