"""What bounds the training of a run is told in words, and the run is not changed."""

import shutil
from pathlib import Path

import pytest

from linnaeus.app import profile as app
from linnaeus.app.progress import Display
from linnaeus.core.errors import RequestError

RUN = Path(__file__).parents[1] / "fixtures" / "v1"


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_is_profiled_on_its_own_images_and_not_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "SECONDS", 0.05)
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    before = files(run)
    found = app.profile(run, display=Display(quiet=True))
    assert files(run) == before
    assert found.verdict().startswith("Bound by ")
    assert 0 <= found.speed.wait <= 1
    assert sum(found.step.shares.values()) == pytest.approx(1)
    kinds, operators = found.tables()
    assert kinds.row_count == len(found.step.shares)
    assert operators.row_count == len(found.to_json()["step"]["operators"])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError):
        app.profile(tmp_path, display=Display(quiet=True))
