"""A run keeps its answers, calibrates, says when it is not sure, and is compared with others on the same images."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import linnaeus
from linnaeus.app.answers import answers_file, load_answers, save_answers
from linnaeus.app.compare import compare
from linnaeus.app.config import make_config
from linnaeus.app.evaluate import evaluate
from linnaeus.app.progress import Display
from linnaeus.app.scoring import evaluate_answers
from linnaeus.app.train import train
from linnaeus.cli import app
from linnaeus.core.errors import RequestError

from .dots import draw_dots

QUIET = Display(quiet=True)


def settings(source, seed=0, **confidence):
    return make_config(
        {
            "data": {"source": str(source), "val_share": 0.4},
            "model": {"name": "lenet5_modern"},
            "train": {"duration": "3ep", "batch_size": 16, "seed": seed, "autotune": False, "label_smoothing": 0.3},
            "confidence": confidence,
        }
    )


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """A table, so that there is a further column: the number of an image, by tens."""
    folder = draw_dots(tmp_path_factory.mktemp("dots"), 150)
    rows = [f"{name}/{n}.png,{name},box {n // 10}" for name in ("dark", "light") for n in range(150)]
    (folder / "labels.csv").write_text("\n".join(["path,label,box", *rows]) + "\n")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def run(dots, tmp_path_factory):
    return train(settings(dots, min_accuracy=0.9), out=tmp_path_factory.mktemp("runs") / "run", display=QUIET)


def about(run):
    return json.loads((run.model / "model.json").read_text())


def test_answers_are_those_of_the_images_of_the_role_and_survive_their_file(run, tmp_path):
    with (run.data / "index.csv").open() as file:
        index = list(csv.DictReader(file))
    for role in ("val", "test"):
        kept = load_answers(answers_file(run.folder, role))
        rows = [row for row in index if row["role"] == role]
        assert list(kept.names) == [row["name"] for row in rows]
        assert [digest.tobytes().hex() for digest in kept.digests] == [row["digest"] for row in rows]
        assert [kept.classes[k] for k in kept.truths.argmax(1)] == [row["label"] for row in rows]
        assert {"size", "orientation", "brightness", "box"} == kept.columns.keys()
        save_answers(tmp_path / "again" / "x.safetensors", kept)
        again = load_answers(tmp_path / "again" / "x.safetensors")
        assert np.array_equal(again.logits, kept.logits)
        assert again.columns["box"].values == kept.columns["box"].values


def test_smoothed_labels_make_a_network_unsure_and_calibration_mends_it(run):
    calibration = about(run)["calibration"]
    assert calibration["method"] != "none"
    assert calibration["held_out"]["log_loss"]["after"] < calibration["held_out"]["log_loss"]["before"]


def test_an_evaluation_from_kept_answers_is_that_of_a_second_look(run):
    kept = evaluate_answers(load_answers(answers_file(run.folder, "test")), about(run), "test")
    again = evaluate(run.folder, None, split=None, device="cpu", display=QUIET)
    assert kept.to_json()["top1"] == again.to_json()["top1"] == about(run)["metrics"]["top1"]
    assert kept.probabilities.after.log_loss.value == pytest.approx(again.probabilities.after.log_loss.value, rel=1e-4)
    assert [each.value for each in kept.slices] == [each.value for each in again.slices]
    json.dumps(again.to_json(), allow_nan=False)


def test_a_planted_slice_failure_is_found_and_shown(run):
    kept = load_answers(answers_file(run.folder, "test"))
    bad = np.isin(kept.columns["box"].codes, np.unique(kept.columns["box"].codes)[:1])
    bad |= kept.columns["brightness"].codes == 0
    kept.truths[bad] = ~kept.truths[bad]
    found = evaluate_answers(kept, about(run), "test").slices
    assert ("brightness", kept.columns["brightness"].values[0]) in {(s.column, s.value) for s in found if s.fails}


def test_the_model_abstains_below_its_threshold_and_flags_what_is_strange(run, dots):
    classifier, threshold = linnaeus.load(run.folder), about(run)["confidence"]["abstain"]["threshold"]
    images = [dots.parent / "dark" / f"{n}.png" for n in range(60)]
    for prediction in classifier.predict([*images, np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)]):
        assert prediction.abstained == (prediction.probability <= threshold)
        assert (prediction.label == "") == prediction.abstained == (not prediction.labels)
        assert prediction.top[0][0] == prediction.candidates[0]


def test_an_accuracy_that_cannot_be_promised_is_refused_in_words_and_a_model_trained_for_it_never_answers(
    run, dots, tmp_path
):
    image = str(dots.parent / "dark" / "1.png")
    done = CliRunner().invoke(app, ["predict", str(run.folder), image, "--min-accuracy", "0.999"])
    assert isinstance(done.exception, RequestError)
    assert "an accuracy of 0.999 cannot be promised: it takes 5,296 images of val" in str(done.exception)
    done = CliRunner().invoke(app, ["predict", str(run.folder), image, "--min-accuracy", "7"])
    assert "expected a share between 0 and 1" in str(done.exception)
    done = CliRunner().invoke(app, ["predict", str(run.model), image, "--min-accuracy", "0.9"])
    assert "give the folder of a newer run" in str(done.exception)
    never = train(settings(dots, min_accuracy=0.999), out=tmp_path / "run", display=QUIET)
    (prediction,) = linnaeus.load(never.model).predict([image])
    assert prediction.abstained
    assert prediction.label == ""


def test_runs_are_compared_on_their_common_images(run, dots, tmp_path):
    other = train(settings(dots, seed=1), out=tmp_path / "other", display=QUIET)
    (told,) = compare([run.folder, other.folder])
    first, second = (load_answers(answers_file(each.folder, "test")) for each in (run, other))
    assert told.num_common == len(set(first.names) & set(second.names))
    assert 0 < told.num_common < told.num_first
    assert f"{told.num_common:,} common test images (of " in told.lines()[0]
    stranger = second.take(np.arange(3))
    save_answers(
        answers_file(other.folder, "test"), stranger.__class__(**{**vars(stranger), "digests": stranger.digests + 1})
    )
    with pytest.raises(RequestError, match="no test image in common"):
        compare([run.folder, other.folder])
    with pytest.raises(RequestError, match="the same run twice"):
        compare([run.folder, run.folder])
