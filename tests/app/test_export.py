"""An export of a run delivers what the gate lets pass, and nothing else; its table says of all why."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch

from linnaeus.app import export as exporting
from linnaeus.app.config import make_config
from linnaeus.app.contenders import gather
from linnaeus.app.evaluate import evaluate
from linnaeus.app.export import Wanted, export, left_out, parse_targets
from linnaeus.app.exports import read_attempts
from linnaeus.app.held import HeldImages
from linnaeus.app.progress import Display
from linnaeus.app.train import train
from linnaeus.core.errors import RequestError
from linnaeus.core.files import write_json
from linnaeus.data.encode import encode_png
from linnaeus.deploy.artefact import load_artefact
from linnaeus.deploy.bundle import load_bundle
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.gate import Limits

from .dots import draw_dots

QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that tells dark images from light ones."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "dots").mkdir()
    draw_dots(folder / "dots", 60)
    settings = {
        "data": {"source": str(folder / "dots"), "workers": 0},
        "model": {"name": "lenet5_modern"},
        "train": {"duration": "4ep", "batch_size": 16, "autotune": False, "device": "cpu"},
    }
    return train(make_config(settings), out=folder / "run", display=QUIET).folder


def exported(folder, target, *, data=None, batch=None, limits=None):
    name, precision = target.split(":")
    if missing := FORMATS[name].missing(precision):
        pytest.skip(f"{target} needs {', '.join(missing)}")
    (attempt,) = export(folder, Wanted(((name, precision),), batch, limits or Limits()), data=data, display=QUIET)
    return attempt


def attempts(folder):
    return {attempt.name: attempt for attempt in read_attempts(folder)}


def swapped(*args):
    """`open_run`, of an artefact whose classes have changed places."""
    run = OPEN_RUN(*args)
    return lambda images: np.ascontiguousarray(run(images)[:, ::-1])


OPEN_RUN = exporting.open_run


def test_a_good_artefact_is_delivered_and_gives_what_the_run_gives(trained):
    attempt = exported(trained, "onnx:f32")
    assert attempt.verdict.outcome == "delivered"
    assert attempt.verdict.score.gap < 1e-4
    folder = trained / "exports" / "onnx-f32"
    assert attempt.size == (folder / "model.onnx").stat().st_size
    files = sorted((trained.parent / "dots").rglob("*.png"))[::7]
    ours, theirs = load_artefact(folder).predict(files), load_bundle(trained).predict(files)
    assert [one.label for one in ours] == [one.label for one in theirs]
    assert load_artefact(folder).check_golden() < 1e-5
    assert not [path.name for path in (trained / "exports").iterdir() if path.name.startswith(".")]


def test_8_bit_integers_are_counted_and_few_images_are_a_warning(trained):
    attempt = exported(trained, "onnx:int8")
    assert attempt.verdict.outcome == "warned"
    assert "are too few to show" in attempt.verdict.reasons[0]
    assert attempt.coverage.convolutions == (2, 2)
    assert attempt.coverage.macs == 1.0
    content = json.loads((trained / "exports" / "onnx-int8" / "artefact.json").read_text())
    assert content["gate"]["outcome"] == "warned"
    assert content["coverage"]["linears"] == [3, 3]
    assert content["float_layers"] == []
    assert attempts(trained)["onnx:int8"] == attempt


def test_the_tutorials_quantization_says_that_it_changed_no_convolution(trained):
    attempt = exported(trained, "torchscript:tutorial-int8")
    assert attempt.verdict.passed
    assert attempt.coverage.convolutions == (0, 2)
    assert attempt.coverage.linears == (3, 3)


@pytest.mark.slow
def test_core_ml_is_delivered_unscored_where_it_cannot_run(trained):
    attempt = exported(trained, "coreml:f16")
    if attempt.verdict.score is None:
        assert attempt.verdict.outcome == "not scored"
        assert "runs on macOS alone" in attempt.verdict.reasons[0]
    assert (trained / "exports" / "coreml-f16" / "artefact.json").is_file()


def test_a_refused_artefact_is_not_delivered_and_an_older_one_is_gone(trained, monkeypatch):
    place = trained / "exports" / "torchscript-f32"
    assert exported(trained, "torchscript:f32").verdict.passed
    assert place.is_dir()
    monkeypatch.setattr(exporting, "open_run", swapped)
    attempt = exported(trained, "torchscript:f32")
    assert attempt.verdict.outcome == "refused"
    assert "a probability differs by" in attempt.verdict.reasons[0]
    assert attempts(trained)["torchscript:f32"] == attempt
    assert not place.exists()
    assert not [path for path in (trained / "exports").iterdir() if path.name.startswith(".")]


def test_what_cannot_be_written_is_refused_with_the_reason(trained, monkeypatch):
    def write(job, folder):
        (folder / "model.ts").write_text("half of it")
        raise NotImplementedError("no such operation\nand a long story")

    monkeypatch.setitem(FORMATS, "torchscript", replace(FORMATS["torchscript"], write=write))
    attempt = exported(trained, "torchscript:f32")
    assert attempt.verdict.reasons == ("it could not be written: NotImplementedError: no such operation",)
    assert not (trained / "exports" / "torchscript-f32").exists()


def test_what_works_only_with_linnaeus_is_refused(trained, monkeypatch):
    monkeypatch.setattr(exporting, "ask_standalone", lambda folder: np.full((4, 2), 0.5, np.float32))
    attempt = exported(trained, "torchscript:f32")
    assert attempt.verdict.outcome == "refused"
    assert "without Linnaeus, golden samples give other probabilities" in attempt.verdict.reasons[-1]
    assert not (trained / "exports" / "torchscript-f32").exists()


def test_a_quantization_that_changes_nothing_is_refused(trained, monkeypatch):
    form = FORMATS["torchscript"]
    monkeypatch.setitem(
        FORMATS,
        "torchscript",
        replace(form, write=lambda job, folder: form.write(job, folder) and {"c1.conv": "float", "c5": "float"}),
    )
    attempt = exported(trained, "torchscript:tutorial-int8")
    assert attempt.verdict.outcome == "refused"
    assert "changes no layer of this network" in attempt.verdict.reasons[0]


def test_other_images_can_be_judged_on_and_a_fixed_number_at_once_is_written_down(trained):
    attempt = exported(trained, "torchscript:f32", data=str(trained.parent / "dots"), batch=5)
    assert attempt.verdict.passed, attempt.verdict
    assert attempt.verdict.score.change.n == 120
    assert attempts(trained)["torchscript:f32"].verdict.score.change.n == 120
    loaded = load_artefact(trained / "exports" / "torchscript-f32")
    assert loaded.content["batch"] == 5
    assert loaded.content["input"]["shape"] == [5, 28, 28, 1]
    assert len(loaded.run(np.zeros((7, 28, 28, 1), np.uint8))) == 7


def test_a_model_without_its_run_needs_images(trained):
    with pytest.raises(RequestError, match="give images to judge the artefacts on by --data"):
        exported(trained / "model", "torchscript:f32")


@pytest.mark.parametrize("target", ["onnx:f32", "onnx:int8", "torch:f32"])
def test_an_artefact_of_any_size_is_judged_on_images_as_they_are(target, tmp_path, trained):
    name, precision = target.split(":")
    if missing := FORMATS[name].missing(precision):
        pytest.skip(f"{target} needs {', '.join(missing)}")
    rng = np.random.default_rng(0)
    for shade, label in ((60, "dark"), (200, "light")):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True)
        for number in range(8):
            shape = (28 + 9 * number, 110 - 9 * number)
            pixels = rng.normal(shade, 20, shape).clip(0, 255).astype(np.uint8)
            (folder / f"{number}.png").write_bytes(encode_png(pixels[:, :, None]))
    wanted = Wanted(((name, precision),), limits=Limits(), takes="any")
    (attempt,) = export(trained, wanted, data=str(tmp_path / "data"), display=QUIET)
    assert attempt.verdict.passed, attempt.verdict.reasons
    assert attempt.name == f"{target}:any"
    assert attempt.verdict.score.change.n == 16
    assert attempt.verdict.score.gap < (1e-4 if precision == "f32" else 0.5)
    place = trained / "exports" / attempt.place
    content = json.loads((place / "artefact.json").read_text())
    assert content["takes"] == "any"
    assert content["input"]["shape"] == [1, None, None, 1]
    asked = {"split": None, "device": "cpu", "display": QUIET}
    ours, theirs = (evaluate(folder, str(tmp_path / "data"), **asked) for folder in (place, trained))
    assert precision == "int8" or np.array_equal(ours.confusion, theirs.confusion)
    with pytest.raises(RequestError, match="it is not timed"):
        gather([place], torch.device("cpu"), note=pytest.fail)


def test_what_is_missing_names_the_command_and_all_leaves_it_out(trained, monkeypatch):
    monkeypatch.setitem(FORMATS, "openvino", replace(FORMATS["openvino"], runtime=("no_such_package",)))
    with pytest.raises(RequestError, match=r"needs no_such_package.*pip install 'linnaeus\[openvino\]'"):
        export(trained, Wanted((("openvino", "f32"),)), data=None, display=QUIET)
    assert "openvino" not in {name for name, _ in parse_targets("all")}
    assert left_out()["openvino:bf16"] == "pip install 'linnaeus[openvino]'"


@pytest.mark.parametrize("words", ["", ",", "onnx,onnx:f32", "all,onnx", "onnx int8", "ONNX"])
def test_nonsense_is_no_target(words):
    with pytest.raises(RequestError, match="--to"):
        parse_targets(words)


def test_weights_are_tuned_once_for_all_static_integers_and_it_is_written_down(trained, monkeypatch):
    for name in ("onnx", "openvino"):
        if missing := FORMATS[name].missing("int8"):
            pytest.skip(f"{name}:int8 needs {', '.join(missing)}")
    asked, quantized = [], []
    tune, write = exporting.tuned, exporting.write_within

    def tuned(graph, images, **more):
        asked.append((deepcopy(graph), images))  # a copy, so that it is another one also where no tuning was needed
        return asked[0][0], tune(graph, images, **more)[1]

    def write_within(form, job, *words, **more):
        quantized.append(job.graph)
        return write(form, job, *words, **more)

    monkeypatch.setattr(exporting, "tuned", tuned)
    monkeypatch.setattr(exporting, "write_within", write_within)
    targets = (("onnx", "int8"), ("torchscript", "f32"), ("openvino", "int8"))
    first, plain, second = export(trained, Wanted(targets, qat=True), data=None, display=QUIET)
    ((graph, images),) = asked
    assert all(each is graph for each in quantized)
    assert first.verdict.passed
    assert plain.tuning is None
    assert first.tuning == second.tuning == attempts(trained)["onnx:int8"].tuning
    assert first.tuning.images == len(images.training)
    content = json.loads((trained / "exports" / "onnx-int8" / "artefact.json").read_text())
    assert content["tuning"] == first.tuning.to_json()
    assert f"onnx:int8, weights tuned to bear 8 bits (--qat): {first.tuning.in_words()}" in unescape(
        (trained / "report.html").read_text()
    )
    assert "tuning" not in json.loads((trained / "exports" / "torchscript-f32" / "artefact.json").read_text())
    trained_on = {image.tobytes() for image in images.training.numpy()}
    judged_on = {image.tobytes() for image in HeldImages(trained, load_bundle(trained), None, QUIET).judging().images}
    assert len(trained_on) > len(judged_on) > 1
    assert not trained_on & judged_on
    assert not trained_on & {image.tobytes() for image in images.apart.numpy()}


def test_tuned_weights_are_judged_by_what_the_run_says(trained, monkeypatch):
    """Not by what the tuned network says: one that answers everything alike is refused."""
    if missing := FORMATS["onnx"].missing("int8"):
        pytest.skip(f"onnx:int8 needs {', '.join(missing)}")
    tune = exporting.tuned

    def spoilt(graph, images, **more):
        made = deepcopy(graph)
        made.network.head.bias.data += torch.tensor([100.0, 0.0])
        return made, tune(graph, images, **more)[1]

    monkeypatch.setattr(exporting, "tuned", spoilt)
    (attempt,) = export(trained, Wanted((("onnx", "int8"),), qat=True), data=None, display=QUIET)
    assert attempt.verdict.outcome == "refused"
    assert "points of accuracy" in attempt.verdict.reasons[0]


def test_an_interrupted_tuning_leaves_all_as_it_was(trained, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    monkeypatch.setattr(exporting, "tuned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(trained, Wanted((("onnx", "int8"),), qat=True), data=None, display=QUIET)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("target", [("onnx", "f32"), ("onnx", "int8-dynamic"), ("torchscript", "tutorial-int8")])
def test_tuning_for_nothing_that_it_changes_is_an_error(trained, target):
    with pytest.raises(RequestError, match=r"--qat has no effect.*expected one of aoti:int8, onnx:int8"):
        export(trained, Wanted((target,), qat=True), data=None, display=QUIET)


def test_tuning_needs_the_training_images_of_a_run(trained):
    with pytest.raises(RequestError, match="--qat trains on its training images"):
        export(
            trained / "model", Wanted((("onnx", "int8"),), qat=True), data=str(trained.parent / "dots"), display=QUIET
        )


def test_attempts_from_before_there_was_tuning_are_read(trained):
    old = [exported(trained, "torchscript:f32")]
    (trained / "old").mkdir()
    write_json(
        trained / "old" / "exports.json",
        "linnaeus-exports",
        1,
        {"exports": [{key: value for key, value in each.to_json().items() if key != "tuning"} for each in old]},
    )
    assert read_attempts(trained / "old") == old
    shutil.rmtree(trained / "old")
