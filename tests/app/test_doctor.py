"""The doctor on its own and before training: what it says, what is left out, and what a list of the user's changes."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from linnaeus.app.config import DataConfig, make_config
from linnaeus.app.doctor import doctor
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.train import resume, train
from linnaeus.core.errors import DataError, Interrupted, RequestError

QUIET = Display(quiet=True)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Two classes of twelve noises; one file is under both, and one is no image."""
    noise = np.random.Generator(np.random.Philox(key=3))
    for low, name in ((0, "dark"), (150, "bright")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = noise.integers(low, low + 100, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    shutil.copy(tmp_path / "photos/dark/0.png", tmp_path / "photos/bright/twin.png")
    (tmp_path / "photos/dark/broken.png").write_text("no image")
    return tmp_path / "photos"


def settings(photos, **data):
    return make_config(
        {
            "data": {"source": str(photos), **data},
            "model": {"name": "lenet5_modern"},
            "train": {"duration": "2ep", "batch_size": 8, "precision": "fp32", "channels_last": False},
        }
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_on_its_own_it_tells_and_shows_and_changes_nothing(photos, tmp_path, capsys):
    before = sorted(p.read_bytes() for p in photos.rglob("*.png"))
    diagnosis = doctor(DataConfig(source=str(photos)), page=tmp_path / "page.html", display=Display())
    assert diagnosis.verdict == "usable with warnings"
    assert {finding.kind for finding in diagnosis.warnings} >= {"two_labels", "unreadable"}
    assert "Verdict: usable with warnings" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "dark/broken.png" in page
    assert "bright/twin.png" in page
    assert sorted(p.read_bytes() for p in photos.rglob("*.png")) == before


def test_a_page_that_cannot_be_written_is_refused_before_the_images_are_looked_at(tmp_path):
    with pytest.raises(RequestError, match=r"--page .*: expected the name of a file in a folder that exists"):
        doctor(DataConfig(source="/no/such/folder"), page=tmp_path / "missing" / "page.html", display=QUIET)


def test_data_that_cannot_be_used_has_a_page_and_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be used"):
        doctor(DataConfig(source=str(tmp_path / "photos")), page=tmp_path / "page.html", display=QUIET)
    assert "Unusable" in (tmp_path / "page.html").read_text()


def test_training_leaves_out_what_the_doctor_marks_and_writes_it_down(photos, tmp_path):
    run = train(settings(photos), out=tmp_path / "run", display=QUIET)
    left_out = {"dark/0.png", "bright/twin.png", "dark/broken.png"}
    assert {row["path"] for row in rows(run.data / "quarantine.csv")} == left_out
    assert {row["name"] for row in rows(run.data / "index.csv") if not row["role"]} == left_out


def test_each_warning_is_said_once(photos):
    said = prepare(settings(photos).data, seed=0, display=QUIET).summary()
    assert sum("broken.png" in line for line in said) == 1
    assert sum("twin.png" in line for line in said) == 1


def test_a_list_of_the_users_has_the_last_word(photos, tmp_path):
    (tmp_path / "list.csv").write_text("path,reason\nbright/twin.png,the wrong one\n")
    prepared = prepare(settings(photos, quarantine=str(tmp_path / "list.csv")).data, seed=0, display=QUIET)
    assert {prepared.source.name(index) for index in prepared.split.left_out} == {"bright/twin.png"}


def test_a_run_that_began_goes_on_whatever_becomes_of_the_list(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path,reason\nbright/twin.png,the wrong one\n")
    config = settings(photos, quarantine="list.csv")
    whole = train(config, out=tmp_path / "whole", display=QUIET)
    _stop_after_the_first_epoch(config, tmp_path / "run", monkeypatch)
    (tmp_path / "list.csv").unlink()
    run = resume(tmp_path / "run", display=QUIET)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (run.model, whole.model))
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in expected)


def _stop_after_the_first_epoch(config, out, monkeypatch):
    from linnaeus.engine.train import Keeper

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "stop_if_asked", _stop)
        with pytest.raises(Interrupted):
            train(config, out=out, display=QUIET)
    assert not Run(out).finished


def _stop(_outlet):
    raise Interrupted("stopped", 2)
