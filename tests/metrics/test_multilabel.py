"""Scores of several classes an image equal their definitions and scikit-learn's, ties and empty classes included."""

import json
from dataclasses import asdict
from math import log

import numpy as np
import pytest

from linnaeus.metrics.intervals import wilson
from linnaeus.metrics.multilabel import (
    average_precisions,
    decide,
    mean_average_precision,
    mean_loss,
    summarize_labels,
)
from linnaeus.metrics.outputs import Judged


def judged_of(logits, truths) -> Judged:
    logits = np.array(logits, np.float32)
    return Judged(logits, np.exp(-np.logaddexp(0, -logits)), np.array(truths, bool))


def random_images(seed=0, images=200, classes=6, levels=None) -> Judged:
    """Images whose own classes have larger logits; `levels` rounds these, so that many are equal."""
    rng = np.random.default_rng(seed)
    truths = rng.random((images, classes)) < np.linspace(0.05, 0.6, classes)
    logits = rng.standard_normal((images, classes)) + truths
    return judged_of(logits if levels is None else np.round(logits * levels) / levels, truths)


def average_precision_by_definition(logits, truth) -> float:
    """The mean over the images of the class of the precision among all that rank at least as high."""
    return float(np.mean([truth[logits >= own].mean() for own in logits[truth]]))


@pytest.mark.parametrize("levels", [None, 4, 1])
def test_average_precision_is_its_definition_with_and_without_ties(levels):
    judged = random_images(levels=levels)
    expected = [average_precision_by_definition(*pair) for pair in zip(judged.logits.T, judged.truths.T, strict=True)]
    assert average_precisions(judged.logits, judged.truths) == pytest.approx(expected, rel=1e-12)
    assert mean_average_precision(judged) == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.slow  # to import scikit-learn takes seconds
def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed, levels in ((1, None), (2, 3), (3, 1)):
        judged = random_images(seed, levels=levels)
        thresholds = [0.3, 0.4, 0.5, 0.6, 0.7, 0.5]
        scores, said = summarize_labels(judged, thresholds), decide(judged.probabilities, thresholds)
        truths = judged.truths
        expected = metrics.average_precision_score(truths, judged.logits, average=None)
        assert scores.per_class.average_precision == pytest.approx(expected, rel=1e-12)
        assert scores.mean_average_precision.value == pytest.approx(expected.mean(), rel=1e-12)
        rates = metrics.precision_recall_fscore_support(truths, said, zero_division=0)
        ours = (scores.per_class.precision, scores.per_class.recall, scores.per_class.f1, scores.per_class.support)
        for mine, theirs in zip(ours, rates, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)
        for average, interval in {"micro": scores.micro_f1, "macro": scores.macro_f1}.items():
            assert interval.value == pytest.approx(metrics.f1_score(truths, said, average=average), rel=1e-12)
        right = metrics.accuracy_score(truths, said, normalize=False)
        assert scores.exact_match == wilson(int(right), len(truths))


def test_equal_logits_score_the_share_of_the_class_in_any_order():
    truths = np.array([[1], [0], [0], [1], [0]], bool)
    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 3, 0]):
        assert average_precisions(np.zeros((5, 1), np.float32), truths[order]) == [0.4]


def test_a_perfect_ranking_scores_one_and_the_worst_what_is_left():
    truths = np.array([[1], [1], [0], [0]], bool)
    logits = np.array([[4], [3], [2], [1]], np.float32)
    assert average_precisions(logits, truths) == [1.0]
    assert average_precisions(-logits, truths) == [(1 / 3 + 2 / 4) / 2]


def test_classes_that_no_image_has_are_left_out_of_the_mean_and_named():
    judged = random_images()
    with_empty = judged_of(
        np.hstack([judged.logits, np.ones((200, 1))]), np.hstack([judged.truths, np.zeros((200, 1))])
    )
    scores = summarize_labels(with_empty, [0.5] * 7)
    assert scores.unseen == [6]
    assert scores.num_seen == 6
    assert scores.per_class.average_precision[6] is None
    assert scores.mean_average_precision.value == pytest.approx(mean_average_precision(judged), rel=1e-12)
    assert scores.per_class.predicted[6] == 200
    assert scores.per_class.f1[6] == 0


def test_no_class_at_all_has_no_mean_average_precision():
    with pytest.raises(ValueError, match="no image has a class"):
        mean_average_precision(judged_of(np.zeros((3, 2)), np.zeros((3, 2))))


def test_an_image_without_classes_that_is_said_to_have_none_is_right():
    scores = summarize_labels(judged_of([[-5, -5], [5, -5], [-5, 5]], [[0, 0], [1, 0], [0, 1]]), [0.5, 0.5])
    assert scores.exact_match == wilson(3, 3)
    assert scores.micro_f1.value == scores.macro_f1.value == scores.mean_average_precision.value == 1
    assert scores.labels_per_image == pytest.approx(2 / 3)


def test_a_threshold_is_reached_by_what_equals_it():
    probabilities = np.array([[0.25, 0.25, 0.25]], np.float32)
    assert decide(probabilities, [0.25, 0.2500001, 0.2499999]).tolist() == [[True, False, True]]


def test_the_loss_of_a_half_is_log_two_and_of_extreme_logits_exact():
    assert mean_loss(judged_of(np.zeros((3, 2)), np.eye(3, 2))) == pytest.approx(log(2), rel=1e-12)
    assert mean_loss(judged_of([[1e4, -1e4]], [[0, 0]])) == 5e3


def test_intervals_hold_their_values_repeat_and_narrow_with_more_images():
    few, many = (summarize_labels(random_images(images=images), [0.5] * 6) for images in (100, 900))
    for name in ("mean_average_precision", "micro_f1", "macro_f1", "exact_match"):
        narrow, wide = getattr(many, name), getattr(few, name)
        assert 0 <= wide.low <= wide.value <= wide.high <= 1
        assert (narrow.n, wide.n) == (900, 100)
        assert narrow.high - narrow.low < 0.55 * (wide.high - wide.low)
    assert many == summarize_labels(random_images(images=900), [0.5] * 6)


def test_scores_become_json_and_back():
    plain = asdict(summarize_labels(random_images(), [0.5] * 6))
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
