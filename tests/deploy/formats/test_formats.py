"""Every format gives the probabilities of the network it was written from, for any number of images, or one clear line.

One contract for all of `FORMATS`: what a single format promises besides stands at the end.
"""

import json
import sys

import numpy as np
import pytest

from linnaeus.core.errors import RequestError
from linnaeus.deploy.artefact import open_run
from linnaeus.deploy.coverage import weighted
from linnaeus.deploy.formats import FORMATS, parse_target
from linnaeus.deploy.formats.base import Unrunnable, by_size
from linnaeus.deploy.graph import Graph

from ..small import VECTOR, bundle, job, needs, photos, probabilities

GAPS = {"f32": 1e-4, "f16": 5e-3, "bf16": 0.05, "int8": 0.4, "int8-dynamic": 0.1, "tutorial-int8": 0.1}
"""Of a probability; the reduced ones are for weights at random and a temperature that makes differences large.

The mean is within a sixth of it: probabilities of other images, or classes, are further away.
"""
TARGETS = [(name, precision) for name, form in FORMATS.items() for precision in form.precisions]
RUN_HERE = [target for target in TARGETS if target[0] != "coreml" or sys.platform == "darwin"]
COMPILED = ("aoti",)
LONG = ("aoti", "executorch")
"""What takes seconds to write, be the network as small as it may."""
QUICK = [("torch", "bf16"), ("onnx", "int8"), ("openvino", "int8"), ("torchscript", "tutorial-int8")]
"""Reduced precisions that are tried in every run of the tests."""
KINDS = {
    "several labels, grey, shifted": {"task": "multi", "channels": 1, "calibration": VECTOR, "tta": "shift"},
    "a factor for each class, mirrored": {"calibration": VECTOR, "tta": "flip"},
}


def slow_where(condition):
    return [pytest.mark.slow] if condition else []


def case(name, precision, *more, slow=False):
    return pytest.param(
        name, precision, *more, marks=slow_where(slow or name in LONG), id=":".join([name, precision, *more])
    )


KINDS_CASES = [
    case(name, precision, kind, slow=precision != "f32" or name == "openvino")
    for kind in KINDS
    for name, precision in RUN_HERE
]


@pytest.mark.parametrize(
    ("name", "precision"), [case(*target, slow=target[1] != "f32" and target not in QUICK) for target in RUN_HERE]
)
def test_it_gives_the_networks_probabilities_for_any_number_of_images(name, precision, tmp_path):
    check(bundle(), name, precision, tmp_path)


@pytest.mark.parametrize(("name", "precision", "kind"), KINDS_CASES)
def test_calibration_views_channels_and_several_labels_are_inside(name, precision, kind, tmp_path):
    check(bundle(**KINDS[kind]), name, precision, tmp_path)


def check(of, name, precision, folder):
    needs(name, precision)
    states = FORMATS[name].write(job(of, precision), folder)
    run = FORMATS[name].open(folder, precision)
    images = photos(33, of.preprocess.channels, seed=5)
    expected = probabilities(of, images)
    for number in (1, 2, 3, 33):
        found = np.array(run(images[:number]))
        assert found.dtype == np.float32
        assert found.shape == (number, 3)
        assert np.abs(found - expected[:number]).max() < GAPS[precision]
        assert np.abs(found - expected[:number]).mean() < GAPS[precision] / 6
    layers = weighted(Graph(of))
    if precision == "int8":
        assert states.keys() == layers.keys()
        assert "float" not in states.values()
    elif "int8" in precision:
        assert {n for n, state in states.items() if state == "int8"} == {"c5", "f6", "head"}  # and no convolution


@pytest.mark.parametrize(
    ("name", "precision"),
    [case(name, next(iter(form.precisions))) for name, form in FORMATS.items() if name != "coreml"],
)
@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "missing"])
def test_a_damaged_file_is_one_line(name, precision, damage, tmp_path, written):
    folder = written(name, precision)
    for file in folder.iterdir():
        content = {"truncated": file.read_bytes()[: file.stat().st_size // 2], "foreign": b"I am no network" * 99}
        if damage != "missing":
            (tmp_path / file.name).write_bytes(content.get(damage, b""))
    with pytest.raises(Unrunnable) as caught:
        FORMATS[name].open(tmp_path, precision)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Written once for all tests: the folder of a format and precision."""
    folders = {}

    def write(name, precision):
        needs(name, precision)
        if (name, precision) not in folders:
            folder = tmp_path_factory.mktemp("written")
            FORMATS[name].write(job(bundle(), precision, 1 if name in COMPILED else None), folder)
            folders[name, precision] = folder
        return folders[name, precision]

    return write


@pytest.mark.parametrize("name", ["torch", "onnx", "torchscript", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_fixed_number_of_images_serves_any(name, tmp_path):
    needs(name, "f32")
    of, images = bundle(), photos(9, seed=5)
    FORMATS[name].write(job(of, "f32", batch=4), tmp_path)
    run = open_run(tmp_path, name, "f32", 4)
    for number in (1, 4, 9):
        assert np.abs(run(images[:number]) - probabilities(of, images[:number])).max() < 1e-4


def test_programs_of_several_sizes_share_the_images():
    calls = []

    def runs(size):
        def run(images):
            assert len(images) == size
            calls.append(size)
            return images[:, 0, 0].astype(np.float32)

        return run

    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    run = by_size({1: runs(1), 16: runs(16)})
    for number, expected in ((1, [1]), (3, [1] * 3), (8, [1] * 8), (9, [16]), (16, [16]), (33, [16, 16, 1])):
        calls.clear()
        assert np.array_equal(run(images[:number])[:, 0], np.arange(number))
        assert calls == expected


@pytest.mark.parametrize(("name", "precision"), [("onnx", "int8"), ("openvino", "int8"), ("onnx", "int8-dynamic")])
def test_a_layer_that_is_to_stay_in_float_stays(name, precision, tmp_path):
    from dataclasses import replace

    needs(name, precision)
    states = FORMATS[name].write(replace(job(bundle(), precision), keep_float=frozenset({"c5"})), tmp_path)
    assert states["c5"] == "float"
    assert states["f6"] == states["head"] == "int8"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aoti", "executorch"])
def test_a_layer_that_is_to_stay_in_float_stays_where_a_graph_is_compiled(name, tmp_path):
    test_a_layer_that_is_to_stay_in_float_stays(name, "int8", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", FORMATS["coreml"].precisions)
def test_core_ml_is_written_anywhere_and_says_where_it_runs(precision, tmp_path):
    needs("coreml", precision)
    FORMATS["coreml"].write(job(bundle(), precision, 1), tmp_path)
    package = tmp_path / "model.mlpackage"
    assert json.loads((package / "Manifest.json").read_text())["rootModelIdentifier"]
    assert any(file.stat().st_size > 10_000 for file in package.rglob("*.bin"))
    if sys.platform != "darwin":
        with pytest.raises(Unrunnable, match="runs on macOS alone"):
            FORMATS["coreml"].open(tmp_path, precision)


def test_onnx_is_one_file_that_names_what_goes_in_and_out(written):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    folder = written("onnx", "f32")
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    graph = onnx.load(folder / "model.onnx").graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["probabilities"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("word", "expected"),
    [("onnx", ("onnx", "f32")), ("onnx:int8", ("onnx", "int8")), ("coreml", ("coreml", "f16"))],
)
def test_a_target_is_a_format_and_a_precision(word, expected):
    assert parse_target(word) == expected


@pytest.mark.parametrize(
    ("word", "said"),
    [("foo", "there is no format 'foo'"), ("onnx:int3", "no precision 'int3'"), ("litert", "cannot be installed")],
)
def test_a_target_that_does_not_exist_is_one_line(word, said):
    with pytest.raises(RequestError, match=said):
        parse_target(word)
