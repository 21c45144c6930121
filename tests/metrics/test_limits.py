"""Promises hold as often as they say: accuracy among the answered, sets that hold the truth, false alarms."""

import numpy as np
import pytest
import torch

from linnaeus.metrics.conformal import check_sets, set_threshold, sets
from linnaeus.metrics.novelty import familiarity, familiarity_threshold
from linnaeus.metrics.selective import confidence, images_needed, promise, risk_coverage


def draw(rng, images):
    """Confidences, and answers that are right as often as a curve of them says."""
    confidences = rng.random(images)
    return confidences, rng.random(images) < 0.5 + 0.5 * confidences**0.5


@pytest.mark.parametrize("wish", [0.8, 0.9])
def test_a_promised_accuracy_is_broken_in_at_most_one_run_of_twenty(wish):
    rng = np.random.default_rng(0)
    confidences, right = draw(rng, 200_000)
    order = np.argsort(-confidences)
    above = np.cumsum(right[order]) / np.arange(1, len(order) + 1)  # the population's accuracy above each confidence
    broken = given = 0
    for _ in range(100):
        found = promise(*draw(rng, 500), wish)
        given += found is not None
        if found is not None:
            answered = np.searchsorted(-confidences[order], -found.threshold)
            broken += above[answered - 1] < wish
    assert given > 60
    assert broken <= 0.05 * 100


def test_images_needed_are_those_that_just_do():
    for wish in (0.9, 0.99):
        n = images_needed(wish)
        assert promise(np.linspace(0.5, 1, n), np.ones(n, bool), wish) is not None
        assert promise(np.linspace(0.5, 1, n - 1), np.ones(n - 1, bool), wish) is None


def test_answers_are_above_the_threshold_and_all_where_all_are_right():
    confidences, right = draw(np.random.default_rng(3), 1000)
    found = promise(confidences, right, 0.8)
    assert found.coverage.value == (confidences > found.threshold).mean()
    assert found.accuracy.value == right[confidences > found.threshold].mean()
    assert promise(confidences, np.ones(1000, bool), 0.9).coverage.value == 1
    assert promise(confidences, np.zeros(1000, bool), 0.9) is None
    with pytest.raises(ValueError, match="min_accuracy 7"):
        promise(confidences, right, 7)


def test_the_risk_coverage_curve_rises_to_all_images_and_its_area_is_the_mean_risk():
    confidences, right = draw(np.random.default_rng(0), 400)
    curve = risk_coverage(confidences, right)
    assert curve.coverage[-1] == 1
    assert curve.accuracy[-1] == right.mean()
    assert curve.accuracy[0] > curve.accuracy[-1]
    hits = np.cumsum(right[np.argsort(-confidences)])
    assert curve.area == pytest.approx(np.mean(1 - hits / np.arange(1, 401)))
    tied = risk_coverage(np.full(10, 0.5), np.arange(10) < 3)
    assert (tied.coverage, tied.accuracy) == ([1.0], [0.3])


def test_confidence_of_several_classes_is_that_of_all_decisions():
    probabilities = torch.tensor([[0.9, 0.2, 0.5]])
    assert confidence(probabilities, None).tolist() == pytest.approx([0.9])
    assert confidence(probabilities, torch.tensor([0.5, 0.5, 0.6]).double()).tolist() == pytest.approx(
        [0.9 * 0.8 * 0.5]
    )


def probabilities_of(rng, images):
    logits = 1.5 * rng.standard_normal((images, 6))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares.astype(np.float32), (rng.random((images, 1)) > shares.cumsum(1)).sum(1).clip(max=5)


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_hold_the_truth_as_often_as_they_say(coverage):
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        threshold = set_threshold(*probabilities_of(rng, 150), coverage)
        found.append(check_sets(*probabilities_of(rng, 500), threshold).coverage.value)
    assert coverage - 0.01 <= np.mean(found) <= coverage + 0.02


def test_sets_are_never_empty_and_too_few_images_have_none():
    probabilities, truths = probabilities_of(np.random.default_rng(0), 40)
    assert set_threshold(probabilities[:18], truths[:18], 0.95) is None
    assert set_threshold(probabilities[:19], truths[:19], 0.95) == probabilities[np.arange(19), truths[:19]].min()
    assert sets(probabilities, 1.1).sum(1).tolist() == [1] * 40


def test_alarms_are_as_rare_as_they_were_meant_to_be_and_noise_of_the_network_is_found():
    rng, rates = np.random.default_rng(0), []
    for _ in range(200):
        threshold = familiarity_threshold(rng.standard_normal(99).astype(np.float32), 0.05)
        rates.append((rng.standard_normal(500) < threshold).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.008)
    assert familiarity_threshold(np.zeros(18, np.float32), 0.05) is None
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.1, 0.0]])
    for several in (False, True):
        assert familiarity(sure, several=several) > familiarity(unsure, several=several)
