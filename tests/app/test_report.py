"""A run ends with its report; it can be written later, without the images too, and never costs a run."""

import re
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from linnaeus.app.answers import answers_file, load_answers
from linnaeus.app.compare import compare
from linnaeus.app.config import make_config
from linnaeus.app.exports import Attempt, write_attempts
from linnaeus.app.gather import gather, read_run
from linnaeus.app.progress import Display
from linnaeus.app.report import _recall, read_report, renew_exports, report
from linnaeus.app.side_by_side import check_page, write_comparison
from linnaeus.app.train import train
from linnaeus.core.errors import RequestError
from linnaeus.deploy.gate import Verdict
from linnaeus.report.comparison_page import comparison_page, pareto
from linnaeus.report.record import Shown

from ..report.records import record
from .dots import draw_dots

QUIET = Display(quiet=True)


def settings(source, epochs=2):
    return make_config(
        {
            "data": {"source": str(source)},
            "model": {"name": "lenet5_modern"},
            "train": {"duration": f"{epochs}ep", "batch_size": 8, "precision": "fp32", "channels_last": False},
        }
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_dots(tmp_path_factory.mktemp("dots"), 24)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    return train(settings(images), out=tmp_path_factory.mktemp("runs") / "one", display=QUIET)


def test_training_ends_with_a_report_and_a_card(run):
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "images like these" in page
    assert read_report(run.folder).classes == ["dark", "light"]
    assert (run.model / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: linnaeus\n")


def test_the_figures_are_those_of_scikit_learn(run):
    told = read_report(run.folder)
    kept = load_answers(answers_file(run.folder, "test"))
    truth, said = kept.truths.argmax(1), kept.logits.argmax(1)
    assert told.top.value == accuracy_score(truth, said)
    assert told.measures["macro F1"].value == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))
    assert [row.precision for row in told.rows] == pytest.approx(
        precision_score(truth, said, average=None, zero_division=0).tolist()
    )
    assert [row.recall.value for row in told.rows] == pytest.approx(recall_score(truth, said, average=None).tolist())


def test_written_later_it_measures_what_a_short_training_left_out(run):
    page, told = report(run.folder, display=QUIET)
    assert page == run.folder / "report.html"
    assert told.learning is not None
    assert told.speed is not None
    assert len(told.baselines) == 2
    assert told.baselines[0].accuracy.value <= told.baselines[1].accuracy.value


def test_without_the_images_it_says_so_and_keeps_what_was_known(run, images):
    before = report(run.folder, display=QUIET)[1]
    hidden = images.rename(images.with_name("hidden"))
    try:
        told = report(run.folder, display=QUIET)[1]
    finally:
        hidden.rename(images)
    assert told.learning == before.learning
    assert told.measures == before.measures
    (run.folder / "report.json").unlink()
    hidden = images.rename(images.with_name("hidden"))
    try:
        told = report(run.folder, display=QUIET)[1]
    finally:
        hidden.rename(images)
    assert told.learning is None
    assert "It needs the images, and they are not there" in (run.folder / "report.html").read_text(encoding="utf-8")


def test_without_the_images_a_mistake_that_is_a_suspect_too_keeps_both_its_pictures(run, monkeypatch):
    kept = read_run(run)
    (name, *_), found = kept.test.names, gather(kept)
    mistake, suspect = (Shown(name, "test", "dark", "light", 0.1, 0.9, picture) for picture in ("seen", "whole"))
    found = replace(found, mistakes=[mistake], suspects=[suspect])
    before = replace(found, mistakes=[replace(mistake, overlay="map")])
    monkeypatch.setattr("linnaeus.app.report.gather", lambda _: found)
    monkeypatch.setattr("linnaeus.app.report.read_report", lambda _: before)
    told = _recall(run, kept, "gone")
    assert told.mistakes == before.mistakes
    assert told.suspects == before.suspects


def test_a_later_export_is_told_by_report_and_card_and_nothing_else_changes(run, images):
    before = read_report(run.folder)
    write_attempts(run.folder, [Attempt("onnx:int8", Verdict("refused", ("it loses 3 points",), None))])
    hidden = images.rename(images.with_name("hidden"))  # it takes no image
    try:
        renew_exports(run.folder, QUIET)
        told = read_report(run.folder)
        again = report(run.folder, display=QUIET)[1]
    finally:
        hidden.rename(images)
    assert [each.name for each in told.exports] == ["onnx:int8"]
    assert replace(told, exports=[]) == before
    assert "onnx:int8: it loses 3 points" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert "| onnx:int8 | refused |" in (run.model / "README.md").read_text(encoding="utf-8")
    assert again.exports == told.exports
    (run.folder / "exports.json").unlink()


def test_an_export_makes_no_report_where_there_is_none(tmp_path):
    renew_exports(tmp_path, QUIET)
    assert not list(tmp_path.iterdir())


def test_a_damaged_report_costs_an_export_no_more_than_a_line(tmp_path, capsys):
    (tmp_path / "report.json").write_text("{")
    renew_exports(tmp_path, Display())
    assert "the report was not renewed" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), ValueError("odd"), RequestError("odd")])
def test_a_report_that_fails_leaves_a_finished_run_and_a_line(images, tmp_path, monkeypatch, capsys, fault):
    def fail(*_):
        raise fault

    monkeypatch.setattr("linnaeus.app.report.run_page", fail)
    done = train(settings(images, 1), out=tmp_path / "run", display=Display())
    assert done.finished
    said = " ".join(capsys.readouterr().err.split())
    assert "the run is finished, but its report was not written" in said
    assert re.search(r"linnaeus report \S*run", said)


def test_several_runs_stand_side_by_side(run, images, tmp_path):
    other = train(settings(images, 1), out=tmp_path / "two", display=QUIET)
    told = compare([run.folder, other.folder])
    write_comparison([run.folder, other.folder], told, tmp_path / "page.html", device="cpu", display=QUIET)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<th scope="row">two</th>' in page
    assert page.count("<svg") == 2
    with pytest.raises(RequestError, match="expected the name of a file"):
        check_page(tmp_path)


def test_times_of_the_same_network_that_differ_are_called_disturbed():
    def timed(milliseconds, model="resnet18"):
        made = record(model=model)
        return replace(made, speed=replace(made.speed, milliseconds=milliseconds))

    page = comparison_page([("one", timed(20.0)), ("two", timed(70.0))], [])
    assert "two took 3.5 times as long: something else ran when it was timed" in page
    for other in (timed(24.0), timed(70.0, "resnet34")):
        assert "something else ran" not in comparison_page([("one", timed(20.0)), ("two", other)], [])


def test_what_is_dearer_and_no_better_is_not_on_the_front():
    assert pareto([(2.0, 0.9), (1.0, 0.8), (3.0, 0.85), (1.0, 0.7)]) == [1, 0]
    assert np.array_equal(pareto([(1.0, 0.5), (1.0, 0.5)]), [0])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is not the folder of a run"):
        report(tmp_path, display=QUIET)
