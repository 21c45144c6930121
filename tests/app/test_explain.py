"""`explain` writes a picture an image and a page; broken images get rows, nonsense one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from linnaeus.app.explain import METHODS, choose_methods, explain
from linnaeus.app.progress import Display
from linnaeus.cli import app
from linnaeus.cli.explain import MethodName
from linnaeus.core.errors import RequestError, VerdictError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.models import create_model

CLASSES = ["ant", "bee", "<crâne>"]


def save_model(folder, name="lenet5_modern", **options):
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, in_channels=3, image_size=32, **options)
    preprocess = Preprocess(Geometry(32, 36, (0.5,) * 3, (0.25,) * 3))
    architecture = {"name": name, "num_classes": 3, "in_channels": 3, "image_size": 32, "options": options}
    about = {"architecture": architecture, "task": "single", "classes": CLASSES}
    about |= {"calibration": {"method": "none", "temperature": 1.0}, "preprocess": preprocess.to_json()}
    save_bundle(folder, Bundle(model, about, preprocess))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two images, one that is none, and a model."""
    (tmp_path / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"<{number}>.png")
    (tmp_path / "images" / "a.jpg").write_text("no image")
    save_model(tmp_path / "model")
    return tmp_path


def run(folder, *, methods=("auto",), label=None, out=None, model="model"):
    return explain(
        folder / model,
        [str(folder / "images")],
        methods=methods,
        label=label,
        out=out,
        device="cpu",
        display=Display(quiet=True),
    )


def test_every_image_has_a_row_and_a_picture_and_the_page_shows_them(folder):
    page, rows = run(folder)
    assert page == folder / "model" / "explain-1" / "explanations.html"
    assert [bool(row.error) for row in rows] == [False, False, True]
    text = page.read_text()
    assert text.count("<figure>") == 4
    assert "&lt;0&gt;.png" in text
    assert "Cannot be read: not an image" in text
    for row in rows[:2]:
        assert row.label == row.explained
        with Image.open(row.picture) as picture:
            assert picture.format == "PNG"
        assert dict(row.notes).keys() == {"gradcam"}
    assert run(folder)[0].parent.name == "explain-2"


def test_what_it_says_is_what_predict_says(folder):
    from linnaeus.app.predict import predict

    said = predict(folder / "model", [str(folder / "images")], top=1, device="cpu", display=Display(quiet=True))
    for (_, prediction), row in zip(list(said)[:2], run(folder)[1][:2], strict=True):
        assert (row.label, row.probability) == (prediction.label, pytest.approx(prediction.probability, abs=1e-6))


def test_a_class_can_be_asked_for(folder):
    _, rows = run(folder, label="bee")
    assert {row.explained for row in rows[:2]} == {"bee"}
    with pytest.raises(RequestError, match="does not know the class 'wasp': its classes are ant, bee, <crâne>"):
        run(folder, label="wasp")


def test_methods_follow_the_network(folder):
    save_model(folder / "vit", "vit_tiny", patch_size=8)
    _, rows = run(folder, model="vit")
    assert dict(rows[0].notes).keys() == {"attention", "rollout"}
    with pytest.raises(RequestError, match="needs a map behind the last block"):
        run(folder, model="vit", methods=["gradcam"], out=folder / "out")
    assert not (folder / "out").exists()


def test_all_methods_stand_side_by_side(folder):
    pytest.importorskip("captum", reason="needs linnaeus[explain]")
    page, rows = run(folder, methods=["all"], out=folder / "out")
    assert dict(rows[0].notes).keys() == {"gradcam", "integrated-gradients", "occlusion"}
    assert page.read_text().count("<figure>") == 2 * 4
    with Image.open(rows[0].picture) as picture:
        assert picture.width > 4 * 224
    assert "logits, off by" in dict(rows[0].notes)["integrated-gradients"]


def test_every_word_of_the_option_is_a_method():
    assert {str(name) for name in MethodName} == {"auto", "all", *METHODS}
    with pytest.raises(RequestError, match="no method 'lime'"):
        choose_methods(create_model("lenet5", num_classes=2), ["lime"])


def test_the_command_prints_json_and_fails_for_broken_images(folder):
    done = CliRunner().invoke(app, ["explain", str(folder / "model"), str(folder / "images"), "--json"])
    assert isinstance(done.exception, VerdictError)
    assert "1 of 3 images" in str(done.exception)
    content = json.loads(done.stdout)
    assert [bool(image["error"]) for image in content["images"]] == [False, False, True]


def test_a_folder_in_use_is_refused(folder):
    with pytest.raises(RequestError, match="exists already: choose another --out"):
        run(folder, out=folder / "images")
