"""After training: the labels that look wrong to the model, in a table, in a line and on the doctor's page."""

import csv
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.train import train

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Two classes of twenty noises, which no model can confuse, and a bright one in each held-out split of dark."""
    noise = np.random.Generator(np.random.Philox(key=3))
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for low, name in ((0, "dark"), (150, "bright")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(low, low + 100, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
        if split != "train":
            pixels = noise.integers(150, 250, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / "dark" / "wrong.png")
    return tmp_path / "photos"


def settings(source):
    return make_config(
        {
            "data": {"source": str(source)},
            "model": {"name": "lenet5_modern"},
            "train": {"duration": "8ep", "batch_size": 8, "precision": "fp32", "channels_last": False},
        }
    )


@pytest.fixture
def as_cleanlab(monkeypatch):
    """Stands in for the library, whose import takes seconds: suspects what the model contradicts, the surest first."""

    def find_label_issues(labels, pred_probs, **_):
        believed = pred_probs[np.arange(len(labels)), labels]
        order = np.argsort(believed)
        return order[pred_probs.argmax(1)[order] != labels[order]]

    package, module = ModuleType("cleanlab"), ModuleType("cleanlab.filter")
    module.find_label_issues = find_label_issues
    package.filter = module
    monkeypatch.setitem(sys.modules, "cleanlab", package)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", module)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_of_val_and_test_join_table_page_and_summary(photos, tmp_path, capsys, as_cleanlab):
    run = train(settings(photos), out=tmp_path / "run", display=Display())
    suspects = rows(run.data / "suspects.csv")
    assert {(row["path"], row["role"]) for row in suspects} == {
        ("val/dark/wrong.png", "val"),
        ("test/dark/wrong.png", "test"),
    }
    for row in suspects:
        assert (row["label"], row["looks_like"]) == ("dark", "bright")
        assert float(row["label_probability"]) + float(row["looks_like_probability"]) == pytest.approx(1, abs=2e-6)
    said = capsys.readouterr().err
    assert "Labels that look wrong: 2 of 18 held-out images: " in said
    assert "val/dark/wrong.png ('dark' looks like 'bright')" in said
    page = (run.data / "doctor.html").read_text(encoding="utf-8")
    assert "The labels of 2 of 18 held-out images (11.1%) contradict what the model predicts." in page
    assert page.count("looks like &#x27;bright&#x27;") == 4, "a card and a line by name for each"
    assert "the 18 images of val and test were judged, by a model that agrees with 88.9% of them" in page
    assert "Those of the 24 training images were not" in page
    assert "another seed" not in page, "the splits are given"
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "2 labels look wrong among 18 held-out images" in report
    shown = report.split('id="suspects"')[1].split("</section>")[0]
    assert shown.count("<figure>") == 2
    assert shown.count("<img ") == 2
    assert all(name in shown for name in ("val/dark/wrong.png", "test/dark/wrong.png"))


def test_where_no_label_looks_wrong_it_is_said(photos, tmp_path, capsys, as_cleanlab):
    for split in ("val", "test"):
        (photos / split / "dark" / "wrong.png").unlink()
    run = train(settings(photos), out=tmp_path / "run", display=Display())
    assert rows(run.data / "suspects.csv") == []
    assert "Labels that look wrong: none of 16 held-out images" in capsys.readouterr().err
    page = (run.data / "doctor.html").read_text(encoding="utf-8")
    assert "by a model that agrees with 100.0% of them" in page
    assert "Labels that look wrong" not in page


def test_without_the_library_training_ends_well_and_names_the_extra(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    run = train(settings(photos), out=tmp_path / "run", display=Display())
    assert run.finished
    assert not (run.data / "suspects.csv").exists()
    assert "were not looked for: that needs pip install 'linnaeus[doctor]'" in capsys.readouterr().err
    assert "were not looked for" in (run.data / "doctor.html").read_text(encoding="utf-8")


def test_images_of_several_classes_are_not_judged_and_it_is_said(photos, tmp_path, capsys):
    both = [(f"train/{name}/{number}.png", name) for name in ("dark", "bright") for number in range(12)]
    lines = [f"{path},{name if int(path[-5]) % 2 else 'dark|bright'}" for path, name in both]
    (photos / "t.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    run = train(settings(photos / "t.csv"), out=tmp_path / "run", display=Display())
    assert not (run.data / "suspects.csv").exists()
    assert "that needs exactly one class an image" in capsys.readouterr().err


@pytest.mark.slow
def test_the_library_itself_finds_the_same(photos, tmp_path):
    """Slow: its import takes seconds."""
    pytest.importorskip("cleanlab", reason="needs the extra [doctor]")
    run = train(settings(photos), out=tmp_path / "run", display=Display(quiet=True))
    assert {row["path"] for row in rows(run.data / "suspects.csv")} == {"val/dark/wrong.png", "test/dark/wrong.png"}
