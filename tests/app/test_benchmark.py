"""Networks and artefacts are timed beside each other; the winner is one whose answers are good, and is remembered."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from linnaeus.app import benchmark as app
from linnaeus.app import contenders, fastest
from linnaeus.app.contenders import Contender, gather, shortest
from linnaeus.app.fastest import fastest_artefact, remember
from linnaeus.app.progress import Display
from linnaeus.app.timings import Benchmark, Measured, Rated
from linnaeus.core.device import pick
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.deploy import benchmark as timing
from linnaeus.deploy.artefact import write_about
from linnaeus.deploy.benchmark import ROUNDS, Start, Timing
from linnaeus.deploy.bundle import load_bundle
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Job
from linnaeus.deploy.graph import Graph
from linnaeus.engine.autotune import Way
from linnaeus.metrics.intervals import wilson

RUN = Path(__file__).parents[1] / "fixtures" / "v1"
CPU = pick("cpu")


def export_to(folder, run, outcome="delivered"):
    """An artefact of TorchScript, as `export` leaves it, judged as is said here."""
    bundle = load_bundle(run)
    folder.mkdir(parents=True)
    FORMATS["torchscript"].write(Job(Graph(bundle), "f32"), folder)
    side, channels = bundle.preprocess.geometry.image_size, bundle.preprocess.channels
    golden = np.zeros((1, side, side, channels), np.uint8)
    score = {"accuracy": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 400, "confidence": 0.95}}
    about = {"name": "torchscript:f32", "format_name": "torchscript", "precision": "f32", "batch": None}
    gate = {"outcome": outcome, "reasons": [], "score": score}
    write_about(
        folder,
        {**about, "model": dict(bundle.about), "gate": gate},
        golden,
        np.full((1, len(bundle.classes)), 0.1, np.float32),
    )
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "animals"
    shutil.copytree(RUN, run)
    export_to(run / "exports" / "torchscript-f32", run)
    return run


@pytest.fixture
def own(exported, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "own"))


def way(name, seconds, *, gap=0.0, artefact=None, may_win=True):
    contender = Contender(name, name, lambda: None, 10, wilson(90, 100), artefact, may_win)
    return Measured(contender, Timing({size: [[seconds]] * ROUNDS for size in (1, 8, 32)}), Start(1.0, 1), gap)


def rated(folder, *ways):
    return Rated(folder, "lenet5", True, {each.contender.name: each for each in ways}, {})


@pytest.mark.parametrize(
    ("gap", "artefact", "may_win", "winner"),
    [
        (0.0, None, True, "other"),
        (0.2, None, True, "plain"),  # a way of the network that changes probabilities
        (0.2, Path("onnx-int8"), True, "other"),  # judged on real images, which random pixels do not overrule
        (0.0, Path("coreml-f16"), False, "plain"),  # not scored
    ],
)
def test_the_fastest_whose_answers_are_good_wins(tmp_path, gap, artefact, may_win, winner):
    found = rated(tmp_path, way("plain", 0.002), way("other", 0.001, gap=gap, artefact=artefact, may_win=may_win))
    assert found.fastest(1) == found.fastest(32) == winner
    assert ("2.00 times plain" in Benchmark("cpu", 0.0, (found,)).in_words()) == (winner == "other")


def test_a_way_that_is_slower_in_one_round_does_not_win(tmp_path):
    unsure = way("unsure", 0.001)
    unsure.timing.calls[1][3] = [0.003]
    found = rated(tmp_path, way("plain", 0.002), unsure)
    assert found.fastest(1) == "plain"
    assert found.fastest(32) == "unsure"


def test_one_way_alone_has_no_rivals(tmp_path):
    alone = rated(tmp_path, way("onnx:int8", 0.002))
    assert alone.winner(1) == "On one image onnx:int8 takes 2.00 ms."
    assert alone.winner(32) == "On 32 images at once onnx:int8 does 16,000 images/s."


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    a, b, c = (tmp_path / part for part in ("one/photos", "two/photos", "other"))
    assert shortest([a]) == {a: ""}
    assert shortest([a, c]) == {a: "photos", c: "other"}
    assert shortest([a, b]) == {a: "one/photos", b: "two/photos"}


def test_a_run_brings_its_network_and_what_was_exported_of_it(exported):
    (group,) = gather([exported], CPU, pytest.fail)
    network, *_, artefact = group.contenders
    assert (network.name, network.accuracy.n) == ("eager", 20)
    assert (artefact.name, artefact.accuracy.n, artefact.may_win) == ("torchscript:f32", 400, True)
    assert artefact.size == (exported / "exports" / "torchscript-f32" / "model.ts").stat().st_size


def test_an_artefact_alone_is_itself_and_with_its_run_is_not_timed_twice(exported):
    place = exported / "exports" / "torchscript-f32"
    (alone,) = gather([place], CPU, pytest.fail)
    assert [contender.name for contender in alone.contenders] == ["torchscript:f32"]
    (both,) = gather([place, exported], CPU, pytest.fail)
    assert [contender.name for contender in both.contenders].count("torchscript:f32") == 1


def test_ways_of_two_runs_are_told_apart(exported, own):
    first, second = gather([exported, own], CPU, pytest.fail)
    assert first.contenders[0].name == "animals/eager"
    assert second.contenders[-1].name == "own/torchscript:f32"


def test_what_was_exported_of_another_state_of_the_model_is_left_out_and_said(own):
    about = json.loads((own / "model" / "model.json").read_text())
    about["classes"] = about["classes"][::-1]
    (own / "model" / "model.json").write_text(json.dumps(about))
    said = []
    (group,) = gather([own], CPU, said.append)
    assert all(contender.artefact is None for contender in group.contenders)
    assert "another state of the model" in said[0]
    with pytest.raises(RequestError, match="another state"):
        gather([own, own / "exports" / "torchscript-f32"], CPU, said.append)


def test_a_damaged_artefact_is_an_error_where_it_was_named(own):
    place = own / "exports" / "torchscript-f32"
    (place / "model.ts").write_bytes(b"no program")
    with pytest.raises(EnvironmentFault, match="checksum"):
        gather([place], CPU, pytest.fail)


def test_images_of_another_shape_cannot_be_timed_beside(own, exported, monkeypatch):
    shapes = iter([(1, 28, 28), (3, 224, 224)])
    monkeypatch.setattr(contenders, "_shape", lambda _: next(shapes))
    with pytest.raises(RequestError, match=r"1 x 28 x 28, and .* of 3 x 224 x 224"):
        gather([exported, own], CPU, pytest.fail)


@pytest.fixture
def quick(monkeypatch):
    """One plain way, a compiler that fails, and few calls."""

    def fail(_model):
        raise RuntimeError("there is no compiler\nand much more")

    monkeypatch.setattr(contenders, "candidates", lambda *_: [Way("fp32", False)])
    monkeypatch.setattr(contenders, "compile_in_place", fail)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(app, "measure_start", lambda *_: Start(0.5, 1_000_000))


def test_a_benchmark_times_all_and_says_what_could_not_be(own, quick):
    found = app.benchmark([own], device="cpu", display=Display(quiet=True))
    (group,) = found.groups
    assert list(group.ways) == ["eager", "torchscript:f32"]
    assert group.failed == {"compiled": "there is no compiler"}
    assert group.ways["torchscript:f32"].difference < 1e-4
    assert "compiled: not measured, there is no compiler" in found.in_words()
    assert [table.row_count for table in found.tables()] == [2, 2]


def test_what_was_found_is_written_into_the_run_with_a_plot(own, quick):
    written = app.benchmark([own], device="cpu", display=Display(quiet=True)).remember()
    assert written == [own / "benchmark.json", own / "benchmark.svg"]
    content = json.loads(written[0].read_text())
    assert content["ways"].keys() == {"eager", "torchscript:f32"}
    assert content["machine"]["cores"] >= 1
    assert ElementTree.parse(written[1]).getroot().tag.endswith("svg")


def test_of_an_artefact_alone_nothing_is_written(own, quick):
    place = own / "exports" / "torchscript-f32"
    found = app.benchmark([place], device="auto", display=Display(quiet=True))
    assert found.remember() == []
    assert found.groups[0].ways["torchscript:f32"].difference is None


def won_by(artefact):
    return {"fastest": {"one": {"way": "w", "artefact": artefact}, "many": {"way": "eager", "artefact": None}}}


def test_the_winner_is_remembered(own):
    assert fastest_artefact(own, many=False) is None
    remember(own, won_by("torchscript-f32"))
    assert fastest_artefact(own, many=False) == own / "exports" / "torchscript-f32"
    assert fastest_artefact(own, many=True) is None  # the network itself


def test_a_winner_on_another_machine_is_none_here(own, monkeypatch):
    remember(own, won_by("torchscript-f32"))
    monkeypatch.setattr(fastest, "_processor", lambda: "another processor")
    assert fastest_artefact(own, many=False) is None


def test_a_winner_that_is_gone_or_a_damaged_file_is_none(own):
    remember(own, won_by("torchscript-f32"))
    shutil.rmtree(own / "exports")
    assert fastest_artefact(own, many=False) is None
    (own / "benchmark.json").write_text("{")
    assert fastest_artefact(own, many=False) is None


def test_a_winner_is_looked_for_in_the_exports_alone(own, tmp_path):
    shutil.copytree(own / "exports" / "torchscript-f32", tmp_path / "elsewhere")
    remember(own, won_by("../../elsewhere"))
    assert fastest_artefact(own, many=False) is None
