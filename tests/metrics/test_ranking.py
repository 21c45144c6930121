"""Areas under curves equal scikit-learn's, and their intervals cover the population's as often as they say."""

import numpy as np
import pytest
from scipy.special import ndtr

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


def test_an_influence_is_what_a_little_more_weight_of_the_image_does(judged):
    scores, truths = (part[:, 0] for part in judged)
    found = auroc(scores, truths)
    for image in range(0, 80, 7):
        weights = np.ones(80)
        weights[image] += 1e-6
        moved = metrics.roc_auc_score(truths, scores, sample_weight=weights)
        assert 80 * (moved - found.value) / 1e-6 == pytest.approx(found.influence[image], abs=1e-3)
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)


def test_a_precision_without_an_image_is_that_of_the_others(judged):
    scores, truths = (part[:, 0] for part in judged)
    found = average_precision(scores, truths)
    for image in range(80):
        rest = np.arange(80) != image
        expected = metrics.average_precision_score(truths[rest], scores[rest])
        assert found.without[image] == pytest.approx(expected, rel=1e-12)


def test_without_its_only_image_a_class_has_no_precision():
    found = average_precision(np.array([0.9, 0.8, 0.1]), np.array([False, True, False]))
    assert found.value == 0.5
    assert found.without.tolist() == pytest.approx([1.0, np.nan, 0.5], nan_ok=True)


@pytest.mark.parametrize("classes", [1, 3])
def test_classes_of_one_image_have_a_wide_interval(classes):
    rng = np.random.default_rng(0)
    scores, truths = rng.standard_normal((50, classes)), np.zeros((50, classes), bool)
    truths[np.arange(classes), np.arange(classes)] = True
    interval = mean_average_precision(scores, truths)
    assert 0 <= interval.low < interval.value < interval.high <= 1
    assert interval.high - interval.low > interval.value


def test_perfect_order_still_has_an_interval():
    scores = np.arange(20.0)[:, None]
    interval = mean_auroc(scores, scores > 9)
    assert interval.value == interval.high == 1
    assert 0.6 < interval.low < 0.9


# (images, classes, share of the images that have a class, by how much their scores are higher)
SETS = [(100, 1, 0.2, 1), (100, 20, 0.1, 2), (100, 5, 0.2, 1), (300, 10, 0.1, 2), (200, 5, 0.2, 3), (500, 20, 0.05, 1)]


def draw(rng, images, classes, share, distance):
    """Scores of two normal distributions."""
    truths = rng.random((images, classes)) < share
    return rng.standard_normal((images, classes)) + distance * truths, truths


def population_precision(share, distance):
    """The average precision of infinitely many images: the mean precision over the scores of those of the class."""
    scores = np.linspace(-9, 9 + distance, 20_001)
    own, other = share * ndtr(distance - scores), (1 - share) * ndtr(-scores)
    return np.trapezoid(own / (own + other) * np.exp(-((scores - distance) ** 2) / 2) / np.sqrt(2 * np.pi), scores)


def population_auroc(_, distance):
    return ndtr(distance / np.sqrt(2))


@pytest.mark.parametrize(
    ("measure", "population"), [(mean_auroc, population_auroc), (mean_average_precision, population_precision)]
)
def test_intervals_cover_the_population(measure, population):
    rng, covered = np.random.default_rng(1), []
    for each in SETS:
        truth = population(*each[2:])
        found = [measure(*draw(rng, *each)) for _ in range(150)]
        covered.append(np.mean([own.low <= truth <= own.high for own in found]))
    # Of 900 sets the share has a standard error of 0.7 points; the closed form of average precision covered 91.9%.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.016)
    assert min(covered) > 0.89


def test_the_interval_of_precision_covers_where_classes_have_one_image_or_two():
    rng, share, distance = np.random.default_rng(2), 0.02, 2
    truth, covered = population_precision(share, distance), []
    for _ in range(200):
        own = mean_average_precision(*draw(rng, 100, 10, share, distance))
        covered.append(own.low <= truth <= own.high)
    assert 0.91 < np.mean(covered) < 0.995
