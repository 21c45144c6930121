"""How a network is run is decided before training; what is set is kept, and why is written down."""

import time
from pathlib import Path

import pytest

from linnaeus.app import begin as module
from linnaeus.app.begin import Beginning, begin
from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.engine.autotune import Choice, Speed, Way

from .dots import draw_dots

QUIET = Display(quiet=True)
PLAIN = Way("fp32", False)


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    """Forty grey images of 28 pixels in two classes."""
    return draw_dots(tmp_path_factory.mktemp("dots"), 20)


def begun(dots: Path, data: dict | None = None, **train: object) -> Beginning:
    model = {"name": "lenet5_modern"}
    content = {"data": {"source": str(dots), **(data or {})}, "model": model, "train": {"batch_size": 8, **train}}
    return begin(make_config(content), display=QUIET)


def test_without_autotune_nothing_is_measured(dots, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_: pytest.fail("was measured"))
    made = begun(dots, autotune=False)
    assert (made.config.train.precision, made.config.train.channels_last, made.config.train.compile) == (
        *("fp32", False, False),
    )
    assert made.about["autotune"]["seconds"] == {}


def test_what_is_set_is_not_measured(dots, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_: pytest.fail("was measured"))
    made = begun(dots, precision="fp32", channels_last=True, compile=True)
    assert made.config.train.channels_last
    assert made.config.train.compile
    assert made.about["autotune"]["chosen"] == "fp32, channels last, compiled"


def test_a_short_run_is_not_compiled_and_the_manifest_says_why(dots):
    made = begun(dots, precision="fp32", duration="2ep")
    assert made.config.train.compile is False
    assert set(made.about["autotune"]["seconds"]) == {"fp32, channels first", "fp32, channels last"}
    assert made.about["autotune"]["compiling"].startswith("not compiled: training takes 0 s")


def test_a_network_under_the_microscope_is_not_compiled(dots, monkeypatch):
    monkeypatch.setattr(module, "consider_compiling", lambda *_, **__: pytest.fail("was considered"))
    config = make_config(
        {
            "data": {"source": str(dots)},
            "model": {"name": "lenet5_modern"},
            "train": {"batch_size": 8, "duration": "10h"},
            "record": {"microscope": True},
        }
    )
    assert begin(config, display=QUIET).config.train.compile is False


@pytest.mark.parametrize(("fastest", "chosen"), [(0, 0), (2, 2), (1, 2)])
def test_the_number_of_processes_is_measured_in_a_long_run_with_files(dots, monkeypatch, fastest, chosen):
    def time_steps(state, loader, rule, *, device, limit):
        number = loader._loader._loader.num_workers
        return Speed(0.0, 0.5 if number == fastest else 0.51 if number == 2 and fastest == 1 else 1.0, 0.0)

    monkeypatch.setattr(module, "time_steps", time_steps)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "choose", lambda *_: Choice(PLAIN, 8, {str(PLAIN): 0.01}, {}))
    monkeypatch.setattr(module, "consider_compiling", lambda _m, _b, _r, choice, **_: choice)
    made = begun(dots, {"loader": "files"}, duration="10h")
    assert made.config.data.workers == chosen
    assert made.about["autotune"]["seconds_by_workers"].keys() == {0, 1, 2}


def test_the_number_of_processes_is_left_as_it_is_in_a_short_run(dots, monkeypatch):
    monkeypatch.setattr(module, "time_steps", lambda *_, **__: pytest.fail("was measured"))
    assert begun(dots, {"loader": "files"}, duration="2st", precision="fp32").config.data.workers is None


def test_a_given_start_of_the_command_is_kept(dots):
    before = time.monotonic() - 5
    config = make_config({"data": {"source": str(dots)}, "model": {"name": "lenet5"}, "train": {"autotune": False}})
    assert begin(config, display=QUIET, began=before).began == before
