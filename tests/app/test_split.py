"""The roles of a set as a table: those that training would give, and that training takes from the table."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from linnaeus.app.config import DataConfig
from linnaeus.app.prepare import prepare
from linnaeus.app.progress import Display
from linnaeus.app.split import split
from linnaeus.cli.data import split as command
from linnaeus.core.errors import DataError, RequestError

QUIET = Display(quiet=True)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Two classes of twenty pictures, each saved twice; one file is broken, and one name is not text."""
    noise = np.random.Generator(np.random.Philox(key=5))
    for name in ("bee, wild", "ant"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(20):
            coarse = Image.fromarray(noise.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 48))
            coarse.save(folder / f"{number} a.png")
            coarse.save(folder / f"{number} b.jpg", quality=90)
        (folder / "broken.png").write_text("no image")
    odd = os.fsencode(tmp_path / "photos" / "ant") + b"/caf\xe9\n.png"
    (tmp_path / "photos/ant/0 a.png").rename(os.fsdecode(odd))
    return tmp_path / "photos"


def rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_the_table_gives_the_roles_that_training_gives(photos, tmp_path):
    config = DataConfig(source=str(photos))
    (tmp_path / "tables").mkdir()
    out = tmp_path / "tables" / "split.csv"
    split(config, out, seed=3, display=QUIET)
    prepared = prepare(config, seed=3, display=QUIET)
    expected = {
        f"../photos/{prepared.source.name(i)}": (prepared.source.labels.text(i), str(role))
        for i, role in enumerate(prepared.split.roles)
        if role
    }
    assert {row["path"]: (row["label"], row["split"]) for row in rows(out)} == expected
    assert len(expected) == 80
    again = prepare(DataConfig(source=str(out)), seed=99, display=QUIET)
    assert again.split.carved == ()
    assert again.classes == prepared.classes
    found = {again.source.name(i): str(role) for i, role in enumerate(again.split.roles)}
    assert found == {name: role for name, (_, role) in expected.items()}


def test_near_copies_share_a_role(photos, tmp_path):
    split(DataConfig(source=str(photos)), tmp_path / "s.csv", seed=0, display=QUIET)
    roles = {row["path"].removeprefix("photos/"): row["split"] for row in rows(tmp_path / "s.csv")}
    for number in range(1, 20):
        for name in ("bee, wild", "ant"):
            assert roles[f"{name}/{number} a.png"] == roles[f"{name}/{number} b.jpg"]
    assert set(roles.values()) == {"train", "val", "test"}


def test_shares_and_seed_decide(photos, tmp_path):
    def made(name, **settings):
        seed = settings.pop("seed", 0)
        split(DataConfig(source=str(photos), **settings), tmp_path / name, seed=seed, display=QUIET)
        return [row["split"] for row in rows(tmp_path / name)]

    assert made("a.csv") == made("b.csv") != made("c.csv", seed=1)
    shares = made("d.csv", val_share=0.25, test_share=0.5)
    assert [shares.count(role) for role in ("train", "val", "test")] == [20, 20, 40]


def test_splits_that_the_data_states_are_kept(photos, tmp_path):
    (photos / "train").mkdir()
    for name in ("bee, wild", "ant"):
        (photos / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 256, (48, 48, 3), np.uint8)
            Image.fromarray(pixels).save(photos / "test" / name / f"new {number}.png")
    split(DataConfig(source=str(photos)), tmp_path / "s.csv", seed=0, display=QUIET)
    for row in rows(tmp_path / "s.csv"):
        assert (row["split"] == "test") == ("/test/" in row["path"])


def test_the_command_tells_what_was_left_out(photos, tmp_path, capsys):
    command(str(photos), tmp_path / "s.csv", as_json=True)
    about = json.loads(capsys.readouterr().out)
    assert sum(about["images"].values()) == 80
    assert about["carved"] == ["val", "test"]
    assert set(about["left_out"]) == {"ant/broken.png", "bee, wild/broken.png"}
    command(str(photos), tmp_path / "t.csv", val_share=0.3)
    text = capsys.readouterr().out
    assert "80 images of 2 classes" in text
    assert f"linnaeus train {tmp_path / 't.csv'}" in text


@pytest.mark.parametrize("name", ["split.txt", "missing/split.csv", "there.csv"])
def test_a_table_that_cannot_be_made_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(RequestError, match=r"expected the name of a new file in a folder that exists, ending in \.csv"):
        split(DataConfig(source="/no/such/folder"), tmp_path / name, seed=0, display=QUIET)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_images_that_are_not_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match="are not files of their own, so that no table can name them"):
        split(DataConfig(source="animals", limit=6), tmp_path / "s.csv", seed=0, display=QUIET)
    with pytest.raises(RequestError, match="expected a folder or a table, not a pattern"):
        split(DataConfig(source="t-*.parquet"), tmp_path / "s.csv", seed=0, display=QUIET)
    assert not (tmp_path / "s.csv").exists()


def test_class_names_that_a_table_would_tear_apart_are_refused(photos, tmp_path):
    (photos / "ant").rename(photos / "x;y")
    (photos / "bee, wild").rename(photos / "y;z")
    (photos / "x").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(photos / "x" / f"{number}.png")
    (photos / "y").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(100 + number).integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(photos / "y" / f"{number}.png")
    with pytest.raises(DataError, match=r"cannot be told from their names in a table .* rename those that hold"):
        split(DataConfig(source=str(photos)), tmp_path / "s.csv", seed=0, display=QUIET)
    assert not (tmp_path / "s.csv").exists()
