"""An artefact answers where Linnaeus cannot be imported, and what its program lacks is said in a line."""

import shutil

import numpy as np
import pytest

from linnaeus.deploy import standalone
from linnaeus.deploy.artefact import golden_gap, read_artefact
from linnaeus.deploy.formats.base import Unrunnable
from linnaeus.deploy.standalone import ask_standalone

from .small import bundle, deliver


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    return deliver(tmp_path_factory.mktemp("standalone") / "onnx-f32", bundle())


@pytest.fixture
def own(delivered, tmp_path):
    return shutil.copytree(delivered, tmp_path / "onnx-f32")


def slow(*target):
    return pytest.param(*target, marks=pytest.mark.slow, id=":".join(map(str, target)))


@pytest.mark.parametrize(
    ("name", "precision", "batch"),
    [
        slow("onnx", "int8", 3),
        slow("openvino", "f32", None),
        slow("openvino", "bf16", None),
        slow("torch", "f32", None),
        slow("torch", "f32", 3),
        slow("torchscript", "f32", None),
        slow("executorch", "f32", None),
        slow("aoti", "f32", None),
        slow("aoti", "f32", 3),
    ],
)
def test_the_program_of_every_format_gives_the_stored_probabilities(name, precision, batch, tmp_path):
    folder = deliver(tmp_path / "a", bundle(), name, precision, batch)
    allowed = 1e-4 if precision == "f32" else 0.05
    assert golden_gap(ask_standalone(folder), read_artefact(folder)[1]) < allowed


def test_golden_samples_come_out_as_they_were_stored(delivered):
    found = ask_standalone(delivered)
    assert golden_gap(found, read_artefact(delivered)[1]) < 1e-4
    assert len({tuple(row) for row in np.round(found, 3).tolist()}) == len(found)


def test_a_program_that_needs_linnaeus_is_refused(own):
    (own / "predict.py").write_text("import linnaeus")
    with pytest.raises(Unrunnable, match=r"predict\.py stops: .*linnaeus"):
        ask_standalone(own)


def test_a_program_that_breaks_is_refused_with_its_last_line(own):
    (own / "predict.py").write_text("raise ValueError('no such thing')")
    with pytest.raises(Unrunnable, match=r"without Linnaeus, predict\.py stops: ValueError: no such thing"):
        ask_standalone(own)


def test_a_program_that_says_nothing_is_refused(own):
    (own / "predict.py").write_text("raise SystemExit(0)")
    with pytest.raises(Unrunnable, match="it ended with 0"):
        ask_standalone(own)


def test_a_program_that_never_ends_is_refused(own, monkeypatch):
    monkeypatch.setattr(standalone, "SECONDS", 0.5)
    (own / "predict.py").write_text("while True: pass")
    with pytest.raises(Unrunnable, match=r"gave no answer in 0\.5 s"):
        ask_standalone(own)
