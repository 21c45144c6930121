"""A threshold has the largest F1 of all on the images it was chosen on, and a class of few images has one half."""

import numpy as np
import pytest

from linnaeus.metrics.multilabel import decide
from linnaeus.metrics.thresholds import DEFAULT, FEW, best_thresholds


def f1(said, truth) -> float:
    return 2 * (said & truth).sum() / (said.sum() + truth.sum())


@pytest.mark.parametrize("levels", [1000, 8])
def test_no_threshold_has_a_larger_f1(levels):
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random(60) < 0.3
        probabilities = (np.round(rng.beta(2, 4 - 2 * truth) * levels) / levels).astype(np.float32)
        (chosen,) = best_thresholds(probabilities[:, None], truth[:, None])
        reached = f1(decide(probabilities[:, None], [chosen])[:, 0], truth)
        assert reached == max(f1(probabilities >= cut, truth) for cut in np.unique(probabilities))


def test_it_lies_midway_between_what_it_takes_in_and_what_it_leaves_out():
    probabilities = np.array([0.9] * 5 + [0.3] * 5, np.float32)
    truth = np.array([1] * 5 + [0] * 5, bool)
    assert best_thresholds(probabilities[:, None], truth[:, None]) == [pytest.approx(0.6)]


def test_a_class_that_every_image_has_takes_in_all():
    probabilities = np.array([0.0, 0.2, 0.4, 0.6, 0.8], np.float32)[:, None]
    chosen = best_thresholds(probabilities, np.ones((5, 1), bool))
    assert decide(probabilities, chosen).all()


def test_of_equal_ones_the_nearest_to_a_half_is_taken():
    truth = np.array([1, 1, *[0, 0, 0, 1] * 4], bool)  # after 2, 6, 10, 14 and 18 images F1 is one half, else less
    probabilities = np.linspace(0.95, 0.10, 18, dtype=np.float32)
    for cut in (2, 6, 10, 14, 18):
        assert f1(np.arange(18) < cut, truth) == 0.5
    assert best_thresholds(probabilities[:, None], truth[:, None]) == [pytest.approx(0.475)]


def test_classes_of_few_images_keep_one_half():
    probabilities = np.linspace(0, 1, 40, dtype=np.float32)[:, None].repeat(3, axis=1)
    truths = np.zeros((40, 3), bool)
    truths[: FEW - 1, 0] = truths[:FEW, 1] = True
    chosen = best_thresholds(probabilities, truths)
    assert chosen[0] == chosen[2] == DEFAULT
    assert chosen[1] < 0.1


def test_probabilities_that_differ_by_the_last_bit_are_parted_exactly():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    probabilities = np.array([high] * 5 + [low] * 5, np.float32)[:, None]
    truths = np.array([1] * 5 + [0] * 5, bool)[:, None]
    assert np.array_equal(decide(probabilities, best_thresholds(probabilities, truths)), truths)


def test_probabilities_that_are_all_zero_take_in_all():
    probabilities = np.zeros((12, 1), np.float32)
    truths = np.arange(12)[:, None] < 6
    assert decide(probabilities, best_thresholds(probabilities, truths)).all()
