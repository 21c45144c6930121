"""A table of paths and classes trains and evaluates like a folder of class folders, and what it cannot do is said."""

import numpy as np
import pytest
from PIL import Image

from linnaeus.app.config import make_config
from linnaeus.app.evaluate import evaluate
from linnaeus.app.progress import Display
from linnaeus.app.run import check_free, create_run, from_anywhere
from linnaeus.app.train import train
from linnaeus.core.errors import RequestError
from linnaeus.data.sources import Columns

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two kinds of noise, dark and bright, that any network tells apart."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.Generator(np.random.Philox(key=1))
    for number in range(24):
        low = 0 if number % 2 else 150
        Image.fromarray(noise.integers(low, low + 100, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    rows = [
        f"{number}.png,{'dark' if number % 2 else 'bright'},{'test' if number < 8 else 'train'}" for number in range(24)
    ]
    (folder / "table.csv").write_text("\n".join(["picture,kind,part", *rows]) + "\n")
    return folder


def settings(source, **data):
    return make_config(
        {
            "data": {"source": str(source), **data},
            "model": {"name": "lenet5_modern"},
            "train": {"duration": "2ep", "batch_size": 8, "precision": "fp32", "channels_last": False},
        }
    )


def test_a_table_trains_and_its_columns_are_kept_for_evaluation(pictures, tmp_path):
    columns = {"path_column": "picture", "label_column": "kind", "split_column": "part"}
    run = train(settings(pictures / "table.csv", **columns), out=tmp_path / "run", display=QUIET)
    own = evaluate(run.folder, None, split=None, device="cpu", display=QUIET)
    given = evaluate(
        run.folder,
        str(pictures / "table.csv"),
        columns=Columns("picture", "kind", "part"),
        split="test",
        device="cpu",
        display=QUIET,
    )
    assert own.classes == ("bright", "dark")
    assert own.scores.top1.n == given.scores.top1.n == 8
    assert np.array_equal(own.confusion, given.confusion)


def test_a_taken_folder_is_refused_before_the_images_are_looked_at(tmp_path):
    (tmp_path / "something").write_text("mine")
    with pytest.raises(RequestError, match=r"exists already: choose another --out$"):
        check_free(tmp_path)
    with pytest.raises(RequestError, match="exists already"):
        train(settings("/no/such/folder"), out=tmp_path, display=QUIET)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos", "photos-1"),
        ("labels.csv", "labels-1"),
        ("hf:someone/cats", "cats-1"),
        ("shards/*.parquet", "parquet-1"),
    ],
)
def test_a_run_is_called_after_its_data(tmp_path, monkeypatch, data, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "labels.csv").write_text("")
    assert create_run(None, data).folder.name == name


def test_data_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert from_anywhere("photos") == str(tmp_path / "photos")
    assert from_anywhere("in/*.parquet") == str(tmp_path / "in" / "*.parquet")
    assert from_anywhere("animals") == "animals"
    assert from_anywhere("hf:someone/cats") == "hf:someone/cats"
