"""Embeddings are what the head classifies, come with the predictions of one forward pass, and are written whole."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.app.predict import predict, write_embeddings
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.models import create_model
from linnaeus.models.adapters import create_adapted

CLASSES = ["ant", "bee", "crâne"]


def make_bundle(name="lenet5_modern", in_channels=3):
    torch.manual_seed(0)
    create = create_adapted if ":" in name else create_model
    model = create(name, num_classes=len(CLASSES), in_channels=in_channels, image_size=32)
    preprocess = Preprocess(Geometry(32, 36, (0.5,) * in_channels, (0.25,) * in_channels))
    architecture = {"name": name, "num_classes": 3, "in_channels": in_channels, "image_size": 32, "options": {}}
    about = {
        "architecture": architecture,
        "task": "single",
        "classes": CLASSES,
        "calibration": {"method": "temperature", "temperature": 2.0},
    }
    return Bundle(model, {**about, "preprocess": preprocess.to_json()}, preprocess)


def random_images(number):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (40 + i, 50, 3), np.uint8) for i in range(number)]


@pytest.fixture
def folder(tmp_path):
    """Five images, two files that are none, and a model."""
    images = tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(random_images(5)):
        Image.fromarray(pixels).save(images / f"{number}.png")
    (images / "2a.jpg").write_text("no image")
    (images / "9.png").write_bytes((images / "0.png").read_bytes()[:500])
    save_bundle(tmp_path / "model", make_bundle())
    return tmp_path


def run(folder, *, images=("images",), out="out.npz"):
    paths = [str(folder / name) for name in images]
    embeddings = None if out is None else folder / out
    return list(
        predict(folder / "model", paths, top=2, device="cpu", display=Display(quiet=True), embeddings=embeddings)
    )


@torch.no_grad()
@pytest.mark.parametrize("name", ["lenet5_modern", "resnet20", "vit_tiny", "convnextv2_atto", "timm:test_resnet"])
def test_a_row_holds_what_the_network_computes(name):
    if name.startswith("timm:") and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    bundle = make_bundle(name)
    images = torch.stack([bundle.preprocess.fit(image) for image in random_images(3)])
    rows = list(bundle.rows(random_images(3), top=1))
    embeddings, probabilities = (
        torch.stack([getattr(row, key) for row in rows]) for key in ("embedding", "probabilities")
    )
    assert torch.equal(embeddings, bundle.model.features(bundle.preprocess(images)))
    assert torch.equal(probabilities, (bundle.model(bundle.preprocess(images)) / 2).softmax(1))
    assert torch.equal(probabilities, bundle.probabilities(images))
    assert [row.prediction for row in rows] == bundle.predict(random_images(3), top=1)
    assert embeddings.shape[1] == bundle.embedding_size


def test_predictions_and_embeddings_cost_one_forward_pass():
    bundle = make_bundle()
    calls = []
    bundle.model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    list(bundle.rows(random_images(5), batch_size=2))
    assert len(calls) == 3


def test_embed_gives_a_row_for_each_image_in_order():
    bundle = make_bundle()
    together, one_by_one = (bundle.embed(random_images(5), batch_size=size) for size in (32, 1))
    assert together.shape == (5, bundle.model.head.in_features)
    assert together.dtype == torch.float32
    assert torch.allclose(together, one_by_one, atol=1e-5)
    assert bundle.embed([]).shape == (0, bundle.embedding_size)


def test_embed_names_an_image_that_cannot_be_read(folder):
    with pytest.raises(DataError, match=r"image .*2a\.jpg .*not an image"):
        make_bundle().embed([folder / "images" / "0.png", folder / "images" / "2a.jpg"])
    with pytest.raises(DataError, match="image number 1 "):
        make_bundle().embed([random_images(1)[0], Image.new("F", (4, 4))])


def test_the_archive_holds_the_rows_and_names_what_has_none(folder):
    predictions = run(folder)
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    read = [(path, prediction) for path, prediction in predictions if not prediction.error]
    assert (
        arrays["paths"].tolist()
        == [path for path, _ in read]
        == [str(folder / "images" / f"{i}.png") for i in range(5)]
    )
    assert arrays["labels"].tolist() == [prediction.label for _, prediction in read]
    assert arrays["failed"].tolist() == [str(folder / "images" / name) for name in ("2a.jpg", "9.png")]
    assert arrays["classes"].tolist() == CLASSES
    assert arrays["embeddings"].dtype == arrays["probabilities"].dtype == np.float32
    expected = make_bundle().embed(arrays["paths"].tolist())
    assert np.array_equal(arrays["embeddings"], expected.numpy())
    assert arrays["probabilities"].shape == (5, 3)
    assert np.allclose(arrays["probabilities"].max(1), [prediction.probability for _, prediction in read])
    assert arrays.keys() == {"embeddings", "probabilities", "paths", "labels", "failed", "classes"}
    assert {path.name for path in folder.iterdir()} == {"images", "model", "out.npz"}


def test_predictions_are_the_same_without_an_archive(folder):
    assert run(folder) == run(folder, out=None)


def test_an_archive_of_no_rows_keeps_its_columns(folder):
    run(folder, images=["images/2a.jpg"])
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        assert archive["embeddings"].shape == (0, make_bundle().embedding_size)
        assert archive["probabilities"].shape == (0, 3)
        assert archive["paths"].shape == archive["labels"].shape == (0,)
        assert len(archive["failed"]) == 1


def fill_the_disk(add):
    add("a.png", next(make_bundle().rows(random_images(1))))
    raise OSError("disk full")


def test_an_archive_is_there_whole_or_the_old_one_stays(folder):
    (folder / "out.npz").write_bytes(b"old")
    stream = predict(
        folder / "model",
        [str(folder / "images")],
        top=1,
        device="cpu",
        display=Display(quiet=True),
        embeddings=folder / "out.npz",
    )
    next(stream)
    stream.close()
    assert (folder / "out.npz").read_bytes() == b"old"
    with pytest.raises(OSError, match="disk full"), write_embeddings(folder / "out.npz", make_bundle()) as add:
        fill_the_disk(add)
    assert (folder / "out.npz").read_bytes() == b"old"
    assert {path.name for path in folder.iterdir()} == {"images", "model", "out.npz"}


def test_rows_of_any_memory_layout_are_written_as_they_are(folder):
    bundle, rows = make_bundle(), list(make_bundle().rows(random_images(2)))
    wide = torch.stack([row.embedding for row in rows], dim=1)  # (D, N): its columns are not contiguous
    with write_embeddings(folder / "out.npz", bundle) as add:
        for number, row in enumerate(rows):
            add(str(number), type(row)(row.prediction, wide[:, number], row.probabilities))
    with np.load(folder / "out.npz") as archive:
        assert np.array_equal(archive["embeddings"], wide.T.numpy())


@pytest.mark.parametrize(
    ("out", "message"),
    [("out.csv", "ends in .npz"), ("absent/out.npz", "there is no folder"), ("taken.npz", "ends in .npz")],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(folder, out, message):
    (folder / "taken.npz").mkdir()
    with pytest.raises(RequestError) as refusal:
        run(folder, images=["no-such-image.png"], out=out)
    assert message in str(refusal.value)
