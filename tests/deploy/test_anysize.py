"""What resizes inside an artefact gives what evaluation gives, for images of any size and shape."""

import numpy as np
import pytest
import torch

from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.anysize import Fit, capture_any
from linnaeus.deploy.artefact import load_artefact
from linnaeus.deploy.formats import FORMATS, check_takes
from linnaeus.deploy.snippets import write_snippets
from linnaeus.deploy.standalone import ask_standalone

from .small import bundle, deliver, needs

SHAPES = [(1, 1), (1, 50), (50, 1), (20, 20), (32, 32), (53, 37), (33, 100), (100, 33), (10, 900), (900, 10), (63, 64)]


def noise(height, width, channels=3):
    """(H, W, C) uint8."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)


def expected(preprocess, image):
    return preprocess.fit(image).permute(1, 2, 0).numpy()  # (C, S, S) -> (S, S, C)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "resize"), [(28, 32), (28, 28), (27, 32)])
def test_pixels_are_those_of_evaluation(interpolation, channels, size, resize):
    geometry = Geometry(size, resize, (0.5,) * channels, (0.5,) * channels, interpolation)
    preprocess = Preprocess(geometry)
    program = capture_any(Fit(geometry), channels).module()
    for shape in SHAPES:
        image = noise(*shape, channels)
        found = program(torch.from_numpy(image[None]))[0].numpy()
        assert np.array_equal(found, expected(preprocess, image)), shape


def test_images_that_are_shrunk_much_differ_by_one_grey_level_in_very_few_pixels():
    geometry = Geometry(224, 256, (0.5,) * 3, (0.5,) * 3)
    image = noise(1500, 2000)
    found = Fit(geometry)(torch.from_numpy(image[None]))[0].numpy().astype(int)
    gaps = np.abs(found - expected(Preprocess(geometry), image))
    assert gaps.max() <= 1
    assert (gaps > 0).mean() < 1e-4


@pytest.mark.parametrize("name", ["onnx", "torch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_artefact_of_any_size_says_what_the_network_says(name, channels, tmp_path):
    of = bundle(channels=channels)
    loaded = load_artefact(deliver(tmp_path / "a", of, name, takes="any"))
    images = [noise(*shape, channels) for shape in SHAPES]
    ours = np.concatenate([loaded.run(image[None]) for image in images])
    theirs = of.probabilities(torch.stack([of.preprocess.fit(image) for image in images])).numpy()
    assert np.abs(ours - theirs).max() < 1e-4
    assert np.ptp(theirs, 0).max() > 0.1
    labels = [[row.label for row in each.predict(images)] for each in (loaded, of)]
    assert labels[0] == labels[1]


def test_prepared_images_go_through_it_unchanged(tmp_path):
    of = bundle()
    geometry = Geometry(28, 33, (0.5, 0.4, 0.3), (0.25, 0.3, 0.35))
    of.preprocess = Preprocess(geometry)
    of.about["preprocess"] = of.preprocess.to_json()
    loaded = load_artefact(deliver(tmp_path / "a", of, takes="any"))
    prepared = torch.stack([of.preprocess.fit(noise(*shape)) for shape in SHAPES])
    torch.testing.assert_close(loaded.probabilities(prepared), of.probabilities(prepared), atol=1e-4, rtol=0)
    whole = torch.cat([loaded.uncalibrated_whole(noise(*shape)) for shape in SHAPES])
    torch.testing.assert_close(whole, loaded.uncalibrated(prepared), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("precision", ["f16", "int8-dynamic", "int8"])
def test_reduced_precision_leaves_pixels_exact(precision, tmp_path):
    of = bundle()
    plain = load_artefact(deliver(tmp_path / "plain", of, "onnx", precision, batch=1))
    whole = load_artefact(deliver(tmp_path / "whole", of, "onnx", precision, takes="any"))
    for shape in SHAPES:
        image = noise(*shape)
        prepared = expected(of.preprocess, image)
        assert np.abs(whole.run(image[None]) - plain.run(prepared[None])).max() < 1e-4


def test_what_cannot_be_read_is_said_and_the_others_are_answered(tmp_path):
    loaded = load_artefact(deliver(tmp_path / "a", bundle(), takes="any"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    rows = loaded.predict([noise(40, 60), tmp_path / "broken.jpg", tmp_path / "none.jpg", noise(60, 40, 1)])
    assert [bool(row.error) for row in rows] == [False, True, True, False]


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_its_program_answers_without_linnaeus(name, tmp_path):
    folder = deliver(tmp_path / "a", bundle(), name, takes="any")
    loaded = load_artefact(folder)
    assert loaded.check_golden() < 1e-5
    assert np.abs(ask_standalone(folder) - np.array(loaded.content["golden"]["probabilities"])).max() < 1e-4
    text = (folder / "predict.py").read_text()
    assert "resize(" not in text
    assert "$" not in text


def test_its_program_is_shorter_and_comes_alone(tmp_path):
    lengths = {}
    for takes in ("prepared", "any"):
        (tmp_path / takes).mkdir()
        write_snippets(tmp_path / takes, "onnx", "f32", 1, bundle().about, takes)
        lengths[takes] = len((tmp_path / takes / "predict.py").read_text().splitlines())
    assert lengths["any"] < lengths["prepared"]
    assert [path.name for path in (tmp_path / "any").iterdir()] == ["predict.py"]


def test_formats_that_cannot_say_so():
    check_takes("any", [("onnx", "f32"), ("torch", "bf16")], 1)
    check_takes("prepared", [(name, "f32") for name in FORMATS], 7)
    with pytest.raises(RequestError, match="coreml, openvino cannot resize images; expected of torch, onnx"):
        check_takes("any", [("onnx", "f32"), ("openvino", "f32"), ("coreml", "f32")], None)
    with pytest.raises(RequestError, match="one image at once"):
        check_takes("any", [("onnx", "f32")], 4)


def test_a_file_of_onnx_leaves_height_and_width_open(tmp_path):
    needs("onnx", "f32")
    import onnxruntime

    folder = deliver(tmp_path / "a", bundle(), takes="any")
    (given,) = onnxruntime.InferenceSession(folder / "model.onnx").get_inputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert [side if isinstance(side, int) else "open" for side in given.shape] == [1, "open", "open", 3]
