"""Areas under curves equal scikit-learn's, and their intervals cover the population's as often as they say."""

import numpy as np
import pytest

from linnaeus.metrics.ranking import auroc, average_precision, mean_auroc, mean_average_precision

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")


@pytest.fixture(params=[3, 1000])
def judged(request):
    """80 images of 4 classes, with many equal scores and with few."""
    rng = np.random.default_rng(0)
    truths = rng.random((80, 4)) < 0.3
    return rng.integers(0, request.param, (80, 4)) / request.param + 0.3 * truths, truths


def test_values_are_those_of_scikit_learn(judged):
    scores, truths = judged
    assert mean_auroc(scores, truths).value == pytest.approx(metrics.roc_auc_score(truths, scores), rel=1e-12)
    expected = metrics.average_precision_score(truths, scores, average="macro")
    assert mean_average_precision(scores, truths).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("area", [auroc, average_precision])
def test_an_influence_is_what_a_little_more_weight_of_the_image_does(area, judged):
    scores, truths = (part[:, 0] for part in judged)
    found, reference = (
        area(scores, truths),
        {auroc: metrics.roc_auc_score, average_precision: metrics.average_precision_score},
    )
    for image in range(0, 80, 7):
        weights = np.ones(80)
        weights[image] += 1e-6
        moved = reference[area](truths, scores, sample_weight=weights)
        assert 80 * (moved - found.value) / 1e-6 == pytest.approx(found.influence[image], abs=1e-3)
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)


def test_perfect_order_still_has_an_interval():
    scores = np.arange(20.0)[:, None]
    interval = mean_auroc(scores, scores > 9)
    assert interval.value == interval.high == 1
    assert 0.6 < interval.low < 0.9


@pytest.mark.parametrize("measure", [mean_auroc, mean_average_precision])
def test_intervals_cover_the_population(measure):
    rng, covered = np.random.default_rng(1), []
    for images, classes, share, distance in [(100, 1, 0.2, 1), (300, 10, 0.1, 2), (200, 5, 0.2, 3), (500, 20, 0.05, 1)]:

        def draw(number, classes=classes, share=share, distance=distance):
            truths = rng.random((number, classes)) < share
            return rng.standard_normal((number, classes)) + distance * truths, truths

        population = measure(*draw(30_000)).value
        found = [measure(*draw(images)) for _ in range(80)]
        covered.append(np.mean([each.low <= population <= each.high for each in found]))
    assert np.mean(covered) == pytest.approx(0.94, abs=0.03)
    assert min(covered) > 0.86
