"""A search begins with the defaults, survives a stop, and refuses in one line what it cannot do."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from linnaeus.app import tune as workflow
from linnaeus.app.config import make_config
from linnaeus.app.plan import CLOSING, Wish
from linnaeus.app.progress import Display
from linnaeus.app.search import Search, Tried, check_installed
from linnaeus.app.space import Range, make_space, without
from linnaeus.app.tune import tune
from linnaeus.core.errors import RequestError
from linnaeus.metrics.difference import newcombe

SPACE = {"optim.lr": {"low": 0.01, "high": 0.1, "log": True}, "augment.policy": ["none", "jitter"]}
FIXED = frozenset({"train.duration"})
QUIET = Display(quiet=True)


def small(**train):
    settings = {"duration": "1ep", "autotune": False, **train}
    data = {"source": "animals", "limit": 12}
    return make_config({"data": data, "model": {"name": "lenet5_modern"}, "train": settings})


def search(out, trials, config=None, space=SPACE):
    wish = Wish(FIXED, space, trials=trials)
    return tune(config or small(), wish, out=out, display=QUIET, began=time.monotonic())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "search"
    return folder, search(folder, 2)


def test_the_first_trial_has_the_defaults_and_the_winner_is_no_worse(found):
    _, winner = found
    assert winner.trials[0].values == {}
    assert winner.best.score >= winner.trials[0].score
    assert winner.trials[1].values.keys() == SPACE.keys()
    assert 0.01 <= winner.trials[1].values["optim.lr"] <= 0.1


def test_the_winners_file_is_a_complete_configuration(found):
    folder, winner = found
    content = yaml.safe_load((folder / "best.yaml").read_text())
    config = make_config(content)
    assert config.train.duration == "1ep"
    assert {*content} == {*small().model_dump()}
    for path, value in winner.best.values.items():
        section, key = path.split(".")
        assert content[section][key] == value


def test_a_search_goes_on_where_it_was_with_nothing_said_again(found):
    folder, winner = found
    wish = Wish(trials=3)
    again = tune(make_config({"data": {"source": "animals"}}), wish, out=folder, display=QUIET, began=time.monotonic())
    assert again.trials[:2] == winner.trials
    assert len(again.trials) == 3
    assert (folder / "history.svg").read_text().startswith("<?xml")
    assert not (folder / "trial").exists()
    lines = (folder / "trials.csv").read_text().splitlines()
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("config", "space", "message"),
    [
        (small(label_smoothing=0.2), SPACE, "began with train.label_smoothing=0.1, and now 0.2 is asked"),
        (small(), {"optim.ema": [0.0, 0.9]}, "began with the space"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(found, config, space, message):
    with pytest.raises(RequestError, match=message):
        search(found[0], 3, config, space)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data.limit": [3, 4]}, "'data.limit' cannot be searched"),
        ({"train.seed": [0, 1]}, "'train.seed' cannot be searched"),
        ({"optim.lr": 0.1}, "expected 'optim.lr: {low"),
        ({"optim.lr": {"low": 1, "high": 1}}, "expected two numbers with low < high"),
        ({"optim.lr": {"low": 0.0, "high": 1.0, "log": True}}, "with log, 0 < low"),
        ({"augment.flip": [True]}, "expected two or more different values"),
    ],
)
def test_a_space_that_is_none_is_refused(content, message):
    with pytest.raises(RequestError, match=message):
        make_space(content)


def test_a_value_that_the_configuration_refuses_is_named_before_anything_is_trained(tmp_path):
    with pytest.raises(RequestError, match=r"augment.policy=wild of the space: augment.policy"):
        search(tmp_path / "x", 2, space={"augment.policy": ["none", "wild"]})
    assert not (tmp_path / "x").exists()


def test_what_is_fixed_leaves_the_space():
    space = make_space(SPACE)
    assert {*without(space, {"optim.lr"})} == {"augment.policy"}
    with pytest.raises(RequestError, match="nothing to search"):
        without(space, space.keys())


def test_a_duration_of_the_search_must_be_a_time():
    with pytest.raises(RequestError, match="expected the time of the whole search"):
        _ = Wish(duration="3ep").seconds


def test_a_trial_that_was_killed_is_made_again_with_the_same_values(tmp_path):
    journal, space = tmp_path / "journal.jsonl", {"optim.lr": Range(0.01, 1.0, log=True)}
    first = Search(journal, space, seed=0, evaluations=2)
    first.begin_with(Tried(0, {}, (0.5, 0.6), 1.0, "val/top1"), {"optim.lr": 0.1})
    asked = first.ask(1)
    with journal.open("a") as file:
        file.write('{"op_code": 5, "tor')  # as a kill leaves it
    second = Search(journal, space, seed=0, evaluations=2)
    assert len(second.trials()) == 1
    assert second.ask(1).values == asked.values
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def outcomes(folder):
    """Number, score, seconds and end of each trial in the table, without the settings, whose columns come and go."""
    return [line.split(",")[:6] for line in (folder / "trials.csv").read_text().splitlines()[1:]]


def stopped(trials, monkeypatch, **more):
    """The same search with no folder given, stopped when its second trial begins; the folders that there are then."""

    def attempt(begun, number, *arguments, **keywords):
        if number == 1:
            raise KeyboardInterrupt
        return whole(begun, number, *arguments, **keywords)

    whole = workflow.attempt
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(workflow, "attempt", attempt)
        search(None, trials, **more)
    return sorted(path.name for path in Path("tune").iterdir())


def test_the_same_command_goes_on_with_what_was_stopped_and_only_with_that(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stopped(2, monkeypatch) == ["animals-1"]
    (first,) = outcomes(tmp_path / "tune/animals-1")
    assert stopped(3, monkeypatch) == ["animals-1", "animals-2"]  # another number of trials is another search
    winner = search(None, 2)
    assert winner.folder == Path("tune/animals-1")
    assert len(winner.trials) == 2
    assert outcomes(winner.folder)[0] == first
    again = search(None, 2)  # the one before is over, so this is a new one
    assert again.folder == Path("tune/animals-3")


@pytest.mark.slow  # three commands, of which each imports torch and Optuna
def test_a_search_killed_with_sigkill_goes_on_with_the_same_command_and_with_its_folder(tmp_path):
    command = ["tune", "animals", "--trials", "3", "--model", "lenet5_modern", "--json"]
    command += ["--set", "data.limit=12", "--set", "train.duration=1ep", "--set", "train.autotune=false"]

    def run(program, *more):
        words = [sys.executable, *program, *command, *more]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    killed = run(["-c", KILLED, "1"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "tune/animals-1"
    before = outcomes(folder)
    assert len(before) == 1  # that before the kill
    killed = run(["-c", KILLED, "2"])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "going on with the search in tune/animals-1" in killed.stderr
    between = outcomes(folder)
    assert len(between) == 2
    assert between[:1] == before
    done = run(["-m", "linnaeus"], "--out", "tune/animals-1")
    assert done.returncode == 0, done.stderr
    assert outcomes(folder)[:2] == between
    assert json.loads(done.stdout.splitlines()[-1])["trials"] == 3
    assert [path.name for path in (tmp_path / "tune").iterdir()] == ["animals-1"]


KILLED = """
import os, signal, sys
from linnaeus.app import tune
from linnaeus.cli import main
number, whole = int(sys.argv.pop(1)), tune.attempt
def attempt(begun, now, *arguments, **keywords):
    if now == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(begun, now, *arguments, **keywords)
tune.attempt = attempt
main()
"""


def test_without_optuna_a_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RequestError, match=r"tune needs Optuna: pip install 'linnaeus\[tune\]'"):
        check_installed()


def test_the_interval_of_a_difference_is_newcombes():
    """His example: 56/70 and 48/80, in table II, method 10."""
    interval = newcombe((48, 80), (56, 70))
    assert (round(interval.value, 4), round(interval.low, 4), round(interval.high, 4)) == (0.2, 0.0524, 0.3339)


@pytest.mark.slow  # half a minute by the clock
def test_a_search_ends_within_its_time_and_uses_it(tmp_path):
    began = time.monotonic()
    wish = Wish(space=SPACE, duration="30s")
    winner = tune(small(duration="20ep"), wish, out=tmp_path / "x", display=QUIET, began=began)
    longest = max(tried.seconds for tried in winner.trials)
    assert time.monotonic() - began < 30 * 1.03
    assert time.monotonic() - began > 30 - longest - 2 * CLOSING
