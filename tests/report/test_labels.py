"""Where an image may have several classes the report says how good, against chance, and which classes are weak."""

from dataclasses import replace

import numpy as np
import pytest

from linnaeus.app.answers import Answers
from linnaeus.app.gather import nearby, wishes
from linnaeus.app.scoring import evaluate_answers
from linnaeus.metrics.intervals import wilson
from linnaeus.report import labels
from linnaeus.report.record import ClassRow, Record, from_json
from linnaeus.report.run_page import run_page
from linnaeus.report.tables import headlines
from linnaeus.report.verdict import judge

from .records import ABOUT, record
from .test_run_page import text_of

THRESHOLDS = [0.5, 0.51, 0.52]


def several(n: int = 400, *, distance: tuple[float, ...] = (4.0, 4.0, 4.0)) -> Record:
    """A record of three classes; `distance` is by how much the logits of a class are larger on its images."""
    rng = np.random.default_rng(0)
    truths = rng.random((n, 3)) < 0.3
    logits = rng.standard_normal((n, 3)) + np.array(distance) * (truths - 0.5)
    about = {**ABOUT, "thresholds": THRESHOLDS}
    names, digests = tuple(f"{i}.jpg" for i in range(n)), np.zeros((n, 16), np.uint8)
    test = Answers("multi", ("a", "b", "c"), names, np.arange(n), digests, logits.astype(np.float32), truths, {})
    found = evaluate_answers(test, about, "the test images")
    own = found.scores.per_class
    rows = [
        ClassRow(
            name,
            100,
            own.support[k],
            own.precision[k],
            wilson(round(own.recall[k] * own.support[k]), own.support[k]),
            own.f1[k],
            average_precision=own.average_precision[k],
            threshold=THRESHOLDS[k],
            said=own.predicted[k],
        )
        for k, name in enumerate(test.classes)
    ]
    return replace(
        record(),
        task="multi",
        classes=list(test.classes),
        headline="mAP",
        measures=headlines(found.scores),
        rows=rows,
        confusion=None,
        baselines=[],
        probabilities=found.probabilities,
        nearby=nearby(test, about),
        wishes=wishes(test, test, about),
        slices=[],
        mistakes=[],
    )


def test_the_head_speaks_of_images_and_labels_and_explains_the_measure():
    made = several()
    page, every = text_of(run_page(made)), made.measures["all labels right"]
    assert f"All labels right for {100 * every.value:.0f} of 100 images like these" in page
    assert "mean average precision, mAP" in page
    assert f"one by chance about {labels.chance(made):.0%}" in page
    assert labels.chance(made) == pytest.approx(0.3, abs=0.03)
    assert "of a label it is right" in page


def test_labels_together_are_counted_over_all_classes():
    made = several()
    found, said = labels.together(made)
    assert found.n == sum(row.support for row in made.rows)
    assert said is not None
    assert said.n == sum(row.said for row in made.rows)
    f1 = 2 * found.value * said.value / (found.value + said.value)
    assert f1 == pytest.approx(made.measures["micro F1"].value, rel=1e-12)


def test_every_threshold_is_in_the_table_and_survives_json():
    made = several()
    page = text_of(run_page(made))
    assert "said from" in page
    assert "51.0%" in page
    assert "the largest F1 on val" in page
    assert from_json(made.to_json()) == made


def test_planted_weak_classes_are_found_and_shown():
    weak = several(distance=(4.0, 0.5, 4.0))
    told = [worry for worry in judge(weak).worries if "'b'" in worry]
    assert [worry.split(":")[0] for worry in told] == [
        "Found less often than the others",
        "Right less often than the others when said",
    ]
    assert all(worry in text_of(run_page(weak)) for worry in told)
    assert not [worry for worry in judge(several()).worries if "than the others" in worry]


def test_an_order_by_chance_is_called_so():
    verdict = judge(several(distance=(0.0, 0.0, 0.0)))
    assert verdict.tone == "bad"
    assert "Not clearly better than chance" in verdict.summary
    assert judge(several()).tone != "bad"


def test_a_model_that_says_nothing_is_told_of():
    made = several()
    silent = replace(made, rows=[replace(row, said=0, precision=0.0, recall=wilson(0, 9)) for row in made.rows])
    assert "it says none" in text_of(run_page(silent))


def test_mistakes_that_are_not_listed_are_not_denied():
    page = text_of(run_page(several()))
    assert "No test image is judged wrongly" not in page
    assert "They are not listed where an image may have several classes" in page
