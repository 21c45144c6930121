"""`linnaeus benchmark` tells people and machines how fast a model answers, and nonsense gets one line."""

import json
import shutil
from pathlib import Path

import pytest

from linnaeus.app.fastest import fastest_artefact

from .test_commands import run

RUN = Path(__file__).parents[1] / "fixtures" / "v1"


def test_what_is_no_model_is_one_line(tmp_path):
    done = run("benchmark", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} holds no finished model")
    assert len(done.stderr.splitlines()) == 1


def test_only_one_run_can_be_profiled():
    done = run("benchmark", RUN, RUN, "--profile")
    assert done.returncode == 2
    assert "--profile takes one run, and 2 paths were given" in done.stderr


@pytest.mark.slow  # compiles the network, twice
def test_a_model_is_timed_for_people_and_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    model = Path(shutil.copytree(RUN / "model", tmp_path / "model"))
    done = run("benchmark", model, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    tables = done.stdout.partition("On one image")[0]
    assert "compiled" in tables
    assert max(map(len, tables.splitlines())) <= 80
    assert f"Written: {model / 'benchmark.json'}" in done.stdout
    assert fastest_artefact(model, many=True) is None
    assert all("; this may take some minutes" in line for line in done.stderr.splitlines()), done.stderr


@pytest.mark.slow
def test_the_last_line_is_json_if_asked_for(tmp_path):
    model = Path(shutil.copytree(RUN / "model", tmp_path / "model"))
    done = run("benchmark", model, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout.splitlines()[-1])["benchmarks"]
    assert found["ways"]["eager"]["times_as_fast"]["32"]["median"] == 1
    written = json.loads((model / "benchmark.json").read_text())
    assert written["ways"] == found["ways"]
    assert written["fastest"]["one"]["way"] in found["ways"]
