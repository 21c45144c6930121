"""An artefact gives the same wherever it is loaded, and one that is not as it was exported is not loaded at all."""

import json
import shutil

import numpy as np
import pytest
import torch

from linnaeus.core.errors import EnvironmentFault, LinnaeusError, RequestError
from linnaeus.deploy import artefact
from linnaeus.deploy.artefact import GOLDEN, load_artefact, load_runtime, read_artefact
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Unrunnable

from .small import bundle, deliver, photos, probabilities

MODEL = "model.onnx"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A whole artefact; read only."""
    return deliver(tmp_path_factory.mktemp("artefact") / "onnx-f32", bundle())


@pytest.fixture
def own(delivered, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(delivered, tmp_path / "onnx-f32")


def edit(folder, change):
    """Changes `artefact.json`, as whoever means to deceive would."""
    content = json.loads((folder / "artefact.json").read_text())
    change(content)
    (folder / "artefact.json").write_text(json.dumps(content))


def test_it_gives_what_the_network_gives(delivered):
    of, images = bundle(), photos(9)
    loaded = load_artefact(delivered)
    assert np.abs(loaded.run(images) - probabilities(of, images)).max() < 1e-4
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    torch.testing.assert_close(loaded.probabilities(pixels), of.probabilities(pixels), atol=1e-4, rtol=0)
    ours, theirs = ([p.label for p in each.predict(list(images))] for each in (loaded, of))
    assert ours == theirs
    assert len(set(ours)) > 1


def test_a_file_in_the_folder_stands_for_it(delivered):
    assert load_artefact(delivered / MODEL).folder == delivered
    assert read_artefact(delivered / "artefact.json") == read_artefact(delivered)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_its_logits_give_its_probabilities(task, tmp_path):
    loaded = load_artefact(deliver(tmp_path / "a", bundle(task=task)))
    pixels = torch.from_numpy(photos(4)).permute(0, 3, 1, 2)
    logits = loaded.uncalibrated(pixels)
    again = logits.softmax(1) if task == "single" else logits.sigmoid()
    torch.testing.assert_close(again, loaded.probabilities(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["onnx", "torch", "torchscript", pytest.param("aoti", marks=pytest.mark.slow)])
def test_the_order_of_bytes_in_memory_does_not_matter(name, tmp_path):
    """AOTInductor reads memory as if its axes were in order, and gives another answer without a word."""
    images = photos(5)
    loaded = load_artefact(deliver(tmp_path / "a", bundle(), name))
    expected = loaded.run(images)
    turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    for same in (turned, np.asfortranarray(images), images[::-1][::-1], images.repeat(2, 2)[:, :, ::2]):
        assert np.array_equal(same, images)
        assert np.array_equal(loaded.run(same), expected)


def test_answers_stay_when_it_is_asked_again(delivered):
    loaded = load_artefact(delivered)
    first = loaded.run(photos(3))
    kept = first.copy()
    loaded.run(photos(3, seed=9))
    assert np.array_equal(first, kept)


def test_it_runs_on_the_cpu_alone(delivered):
    loaded = load_artefact(delivered)
    assert loaded.to(torch.device("cpu")) is loaded
    with pytest.raises(RequestError, match="runs on the CPU"):
        loaded.to(torch.device("cuda"))


def test_golden_samples_are_asked_again(delivered, own):
    assert load_artefact(delivered).check_golden() < 1e-5
    edit(own, lambda content: content["golden"]["probabilities"][1].reverse())
    with pytest.raises(EnvironmentFault, match="no longer give what they gave"):
        load_artefact(own).check_golden()


def test_golden_samples_of_grey_images_come_back(tmp_path):
    folder = deliver(tmp_path / "a", bundle(channels=1))
    assert load_artefact(folder).check_golden() < 1e-5
    assert np.array_equal(np.stack(artefact.read_golden(*read_artefact(folder))), photos(GOLDEN, 1, seed=3))


def test_a_run_a_model_and_an_artefact_are_told_apart(delivered, tmp_path):
    save_bundle(tmp_path / "model", bundle())
    assert isinstance(load_runtime(tmp_path), Bundle)
    assert not isinstance(load_runtime(delivered), Bundle)
    assert not isinstance(load_runtime(delivered / MODEL), Bundle)


def changed(folder):
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / MODEL).write_bytes(content)


def truncated(folder):
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[: len(content) // 2])


def leads_outside(folder):
    shutil.move(folder / MODEL, folder.parent / MODEL)
    edit(folder, lambda content: content["files"].update({"../model.onnx": content["files"].pop(MODEL)}))


def links_outside(folder):
    shutil.move(folder / MODEL, folder.parent / MODEL)
    (folder / MODEL).symlink_to(folder.parent / MODEL)


def is_of(**values):
    return lambda folder: edit(folder, lambda content: content.update(values))


def lacks(part):
    return lambda folder: edit(folder, lambda content: content.pop(part))


FAULTS = {
    "a changed byte": (changed, EnvironmentFault, "its checksum differs"),
    "a truncated model": (truncated, EnvironmentFault, "its checksum differs"),
    "no model": (lambda folder: (folder / MODEL).unlink(), EnvironmentFault, "model.onnx is missing"),
    "no golden sample": (lambda folder: (folder / "golden/2.png").unlink(), EnvironmentFault, "2.png is missing"),
    "a changed program": (lambda folder: (folder / "predict.py").write_text(""), EnvironmentFault, "checksum differs"),
    "nothing said": (lambda folder: (folder / "artefact.json").unlink(), RequestError, "is no artefact"),
    "half of what is said": (
        lambda folder: (folder / "artefact.json").write_text('{"format": "linnaeus-artefact", "ver'),
        EnvironmentFault,
        "is damaged",
    ),
    "something else": (is_of(format="linnaeus-model"), RequestError, "is not a 'linnaeus-artefact' file"),
    "a newer version": (is_of(version=99), EnvironmentFault, "update Linnaeus"),
    "an unknown format": (is_of(format_name="abacus"), EnvironmentFault, "'abacus', which this Linnaeus cannot run"),
    "a path that leaves the folder": (leads_outside, EnvironmentFault, "is missing"),
    "a link that leaves the folder": (links_outside, EnvironmentFault, "is missing"),
    "a model that is not named": (
        lambda folder: edit(folder, lambda content: content["files"].pop(MODEL)),
        EnvironmentFault,
        "does not name it",
    ),
    "a model too many": (lambda folder: (folder / "model-2.pt2").write_text("x"), EnvironmentFault, "not of this art"),
    **{f"no {part}": (lacks(part), EnvironmentFault, f"has no '{part}'") for part in artefact.PARTS},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_artefact_is_one_line_and_nothing_is_loaded(fault, own, monkeypatch):
    spoil, kind, said = FAULTS[fault]
    spoil(own)
    monkeypatch.setattr(artefact, "open_run", lambda *_: pytest.fail("something was loaded"))
    with pytest.raises(kind, match=said) as caught:
        load_artefact(own)
    assert isinstance(caught.value, LinnaeusError)
    assert "\n" not in str(caught.value)


def test_a_foreign_folder_is_one_line(tmp_path):
    (tmp_path / MODEL).write_bytes(b"what others made")
    for path in (tmp_path, tmp_path / MODEL):
        with pytest.raises(RequestError, match=r"is no artefact of `linnaeus export`"):
            load_artefact(path)


def test_a_model_that_its_runtime_cannot_load_is_one_line(own):
    (own / MODEL).write_bytes(b"not a network")
    edit(own, lambda content: content["files"][MODEL].update(sha256=artefact._digest(own / MODEL)))
    with pytest.raises(Unrunnable, match="ONNX Runtime cannot load it"):
        load_artefact(own)


def test_a_runtime_that_is_missing_says_what_installs_it(delivered, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], runtime=("no_such_runtime",)))
    with pytest.raises(RequestError, match=r"no_such_runtime.*pip install 'linnaeus\[onnx\]'"):
        load_artefact(delivered)
