"""Models on the same images: intervals cover the difference, p-values are McNemar's, and words say what is known."""

import re

import numpy as np
import pytest

from linnaeus.metrics.compare import compare_answers, compare_losses, in_words

stats = pytest.importorskip("scipy.stats")


def answers(rng, images, only_first, only_second, both=0.6):
    kinds = rng.choice(4, images, p=[both, only_first, only_second, 1 - both - only_first - only_second])
    return np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2])


def test_the_p_value_is_the_exact_binomial_one():
    first, second = answers(np.random.default_rng(0), 300, 0.05, 0.12)
    found = compare_answers(first, second)
    apart = found.only_first + found.only_second
    assert found.p_value == pytest.approx(stats.binomtest(found.only_first, apart).pvalue)
    assert found.difference.value == pytest.approx(second.mean() - first.mean())


@pytest.mark.parametrize(
    ("images", "gaps"), [(50, (0.1, 0.1)), (200, (0.02, 0.06)), (1000, (0.03, 0.03)), (100, (0.01, 0.2))]
)
def test_intervals_cover_the_difference(images, gaps):
    rng, truth = np.random.default_rng(0), gaps[1] - gaps[0]
    found = [compare_answers(*answers(rng, images, *gaps)).difference for _ in range(600)]
    assert 0.93 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.985


def test_equal_models_are_told_apart_in_at_most_one_of_twenty():
    rng = np.random.default_rng(0)
    assert np.mean([compare_answers(*answers(rng, 300, 0.05, 0.05)).verdict != 0 for _ in range(400)]) <= 0.06


def test_words_name_the_better_one_whichever_it_is():
    first, second = np.arange(1000) < 900, np.arange(1000) < 930
    found = in_words(compare_answers(first, second), "A", "B")
    assert found.startswith("B is better: +3.0 points, 95% interval ")
    assert found.endswith(", n = 1,000")
    assert in_words(compare_answers(second, first), "A", "B") == found.replace("B is", "A is")


def test_words_say_when_images_are_too_few():
    right = np.arange(40) < 30
    text = in_words(compare_answers(right, np.roll(right, 1)), "A", "B")
    assert text.startswith("these images cannot tell which is better: B less A is 0.0 points")
    assert re.search("a difference of 1 point would take about [0-9,]+ images$", text)


def test_a_difference_that_is_rounded_to_nothing_has_no_sign():
    shift = np.where(np.arange(400) % 2, 0.1, -0.1002)
    words = in_words(compare_losses("log-loss", np.ones(400), 1 + shift), "A", "B")
    assert "B less A is 0.000, 95% interval -0.0" in words
    assert "is 0.000, " in in_words(compare_losses("log-loss", np.ones(400), 1 - shift), "A", "B")


def test_a_lower_loss_is_better():
    rng = np.random.default_rng(0)
    first = rng.exponential(1, 400)
    found = compare_losses("log-loss", first, first - 0.1 + 0.05 * rng.standard_normal(400))
    assert found.verdict == 1
    assert in_words(found, "A", "B").startswith("B is better in log-loss: -0.1")


def test_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match="0 and 0 images"):
        compare_answers(np.zeros(0, bool), np.zeros(0, bool))
