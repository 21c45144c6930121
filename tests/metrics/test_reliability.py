"""The calibration error of perfect probabilities is about 0, planted ones are measured, and intervals cover them."""

import numpy as np
import pytest

from linnaeus.metrics.intervals import bootstrap_mean
from linnaeus.metrics.reliability import calibration_error, reliability


def draw(rng, images, excess):
    """Confidences that are `excess` above the share of right answers."""
    confidences = rng.uniform(0.5, 1, (images, 1))
    return confidences, rng.random((images, 1)) < confidences - excess


def test_intervals_cover_the_planted_error():
    rng, covered = np.random.default_rng(0), []
    for excess in (0.0, 0.04, 0.1):
        found = [calibration_error(*draw(rng, 500, excess), seed=number) for number in range(40)]
        covered.append(np.mean([each.low <= excess <= each.high for each in found]))
        assert np.mean([each.value for each in found]) == pytest.approx(excess, abs=0.02)
        assert found[0].n == 500
    assert np.mean(covered) >= 0.9
    assert min(covered) >= 0.85


def test_bins_hold_equally_many_and_tell_what_is_right():
    rng = np.random.default_rng(0)
    bins = reliability(*draw(rng, 3000, 0.0))
    assert [own.accuracy.n for own in bins] == [200] * 15
    assert all(abs(own.confidence - own.accuracy.value) < 0.16 for own in bins)
    assert [own.confidence for own in bins] == sorted(own.confidence for own in bins)


def test_few_answers_and_equal_confidences_have_one_bin():
    rng = np.random.default_rng(0)
    assert len(reliability(*draw(rng, 12, 0.0))) == 1
    (only,) = reliability(np.full((100, 1), 0.5), np.arange(100)[:, None] < 40)
    assert (only.confidence, only.accuracy.value) == (0.5, 0.4)


def test_the_interval_of_a_mean_covers_it_also_where_rare_values_are_large():
    rng = np.random.default_rng(0)
    draws = [rng.standard_normal(200), rng.exponential(1, 200) - 1]
    for shape in range(len(draws)):
        found = []
        for number in range(200):
            values = rng.standard_normal(200) if shape == 0 else rng.exponential(1, 200) - 1
            found.append(bootstrap_mean(values, seed=number, rounds=300))
        assert 0.9 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.985
    same = bootstrap_mean(np.full(7, 0.3), seed=0)
    assert (same.low, same.value, same.high) == (pytest.approx(0.3),) * 3
