"""Quantization goes on until it keeps within the limits, gives the worst layers back first, and does not do nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from linnaeus.deploy.coverage import count_coverage, trained_layers
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Format, Job, Unchanged
from linnaeus.deploy.gate import Limits
from linnaeus.deploy.graph import Graph
from linnaeus.deploy.quantize import write_within

from .small import bundle, held, job

ORDER = ["f6", "c5", "head", "c1.conv", "c3.conv"]


@pytest.fixture(scope="module")
def source():
    return bundle()


@pytest.fixture(scope="module")
def images(source):
    return held(source, 40)


def fake(images, *, good_without):
    """A format whose artefacts answer rightly once these layers are in floating point."""

    def write(job, folder):
        assert not list(folder.iterdir())
        (folder / "model.bin").write_text("|".join(sorted(job.keep_float)))
        return {name: "float" if name in job.keep_float else "int8" for name in ORDER}

    def open_model(folder, precision):
        kept = set((folder / "model.bin").read_text().split("|"))
        answers = images.expected if good_without <= kept else images.expected[:, [1, 2, 0]]
        known = {image.tobytes(): row for image, row in zip(images.images, answers, strict=True)}
        return lambda x: np.stack([known[image.tobytes()] for image in x])

    return Format({"int8": "fake"}, "model.bin", *((), (), ()), "", write, open_model)


def within(images, source, folder, *, good_without, worst=lambda: list(ORDER)):
    folder = folder / "made"
    folder.mkdir()
    form = fake(images, good_without=good_without)
    return write_within(form, Job(Graph(source), "int8"), folder, held=images, limits=Limits(), worst=worst)


def test_where_the_first_try_is_good_nothing_is_given_back(source, images, tmp_path):
    found = within(images, source, tmp_path, good_without=set(), worst=lambda: pytest.fail("was not needed"))
    assert [each.kept for each in found.tries] == [()]
    assert set(found.states.values()) == {"int8"}


def test_the_worst_layers_are_given_back_until_it_is_within_the_limits(source, images, tmp_path):
    found = within(images, source, tmp_path, good_without={"f6", "c5"})
    assert [each.kept for each in found.tries] == [(), ("f6",), ("f6", "c5")]
    assert [each.score.agreement.value for each in found.tries] == [0, 0, 1]
    assert {name for name, state in found.states.items() if state == "float"} == {"f6", "c5"}
    assert (tmp_path / "made" / "model.bin").read_text() == "c5|f6"


def test_where_none_is_good_the_best_is_left_for_the_gate(source, images, tmp_path):
    found = within(images, source, tmp_path, good_without={"no such layer"})
    assert [len(each.kept) for each in found.tries] == [0, 1, 2, 4, 0]
    assert found.tries[-1].score.agreement.value == 0
    assert set(found.states.values()) == {"int8"}
    assert (tmp_path / "made" / "model.bin").read_text() == ""


def test_where_an_exporter_cannot_mix_the_best_that_it_could_write_is_left(source, images, tmp_path):
    form = fake(images, good_without={"f6", "c5"})

    def write(job, folder):
        if len(job.keep_float) == 2:
            raise RuntimeError("Weight and Input should both be quantized")
        return form.write(job, folder)

    (tmp_path / "made").mkdir()
    job = Job(Graph(source), "int8")
    found = write_within(
        replace(form, write=write), job, tmp_path / "made", held=images, limits=Limits(), worst=lambda: list(ORDER)
    )
    assert [each.kept for each in found.tries] == [(), ("f6",), ()]
    assert (tmp_path / "made" / "model.bin").read_text() == ""


def test_an_artefact_in_which_nothing_became_an_integer_is_refused(source, images, tmp_path):
    form = Format(
        {"int8": "fake"},
        "model.bin",
        *((), (), ()),
        "",
        lambda job, folder: dict.fromkeys(ORDER, "float"),
        lambda folder, precision: pytest.fail("was not to be run"),
    )
    (tmp_path / "made").mkdir()
    with pytest.raises(Unchanged, match="'int8' changes no layer of this network"):
        write_within(form, Job(Graph(source), "int8"), tmp_path / "made", held=images, limits=Limits(), worst=list)


def test_onnx_gives_the_layer_back_that_spoils_it(source, images, tmp_path):
    """With an outlier in one layer: its other weights have no steps left, until it stays in floating point.

    And stays there: ONNX Runtime would round its weights itself when it loads the file.
    """
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    spoilt = bundle()
    with torch.no_grad():
        spoilt.model.f6.weight[:, 0] = 500.0  # the unit that feeds it is switched off
        spoilt.model.c5.weight[0], spoilt.model.c5.bias[0] = 0, -1
    (tmp_path / "made").mkdir()
    found = write_within(
        FORMATS["onnx"],
        job(spoilt, "int8"),
        tmp_path / "made",
        held=held(spoilt, 40),
        limits=Limits(5.0, 0.95),
        worst=lambda: ["f6"],
    )
    assert [each.kept for each in found.tries] == [(), ("f6",)]
    assert found.tries[0].score.agreement.value < 0.9 < found.tries[1].score.agreement.value
    assert found.states["f6"] == "float"
    assert found.states["c5"] == "int8"


def test_the_tutorials_call_changes_no_convolution(source, tmp_path):
    states = FORMATS["torchscript"].write(job(source, "tutorial-int8"), tmp_path)
    found = count_coverage(trained_layers(Graph(source)), states)
    assert found.convolutions == (0, 2)
    assert found.linears == (3, 3)
    assert 0 < found.macs < 0.2


def test_the_tutorials_call_changes_nothing_where_there_is_no_linear_layer(source, tmp_path):
    graph = Graph(source)
    graph.network.forward = (
        nn.Sequential(graph.network.c1, nn.Conv2d(6, 3, 14), nn.Flatten()).eval().requires_grad_(False).forward
    )
    for name in ("c5", "f6", "head"):
        graph.network.set_submodule(name, nn.Identity())
    states = FORMATS["torchscript"].write(Job(graph, "tutorial-int8"), tmp_path)
    assert set(states.values()) == {"float"}
    assert states
