"""Intervals equal published values and closed forms, cover the truth as often as they say, and read well."""

import numpy as np
import pytest

from linnaeus.metrics import intervals
from linnaeus.metrics.intervals import Interval, bootstrap_from_confusion, bootstrap_over_images, wilson, wilson_mean
from linnaeus.metrics.scores import macro_f1

CONFUSION = np.array([[40, 8, 2], [5, 30, 5], [0, 3, 7]])


def accuracy_of(tables):
    return tables.diagonal(axis1=-2, axis2=-1).sum(-1) / tables.sum((-2, -1))


def test_interval_reads_as_a_sentence():
    assert str(Interval(0.934, 0.91, 0.952, 500)) == "93.4% (95% interval 91.0 to 95.2, n = 500)"
    assert str(wilson(5, 10, confidence=0.999)).startswith("50.0% (99.9% interval ")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes, n, low, high):
    interval = wilson(successes, n)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert (interval.value, interval.n, interval.confidence) == (successes / n, n, 0.95)


def test_wilson_ends_solve_the_score_equation():
    # The definition: an end is a proportion q at which |p - q| is z standard errors of q.
    interval = wilson(37, 50, confidence=0.9)
    for end in (interval.low, interval.high):
        assert abs(interval.value - end) == pytest.approx(1.6448536269514722 * (end * (1 - end) / 50) ** 0.5)


def test_wilson_is_symmetric_under_exchange_of_success_and_failure():
    ours, mirrored = wilson(3, 17), wilson(14, 17)
    assert (ours.low, ours.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


@pytest.mark.parametrize("n", [1, 7, 1000, 10**7])
def test_wilson_is_ordered_inside_the_unit_interval_at_its_borders(n):
    nothing, everything = wilson(0, n), wilson(n, n)
    assert 0.0 == nothing.low == nothing.value < nothing.high < 1.0
    assert 0.0 < everything.low < everything.value == everything.high == 1.0


@pytest.mark.parametrize(("truth", "n"), [(0.5, 20), (0.9, 50), (0.99, 200), (0.75, 1000)])
def test_wilson_covers_the_truth_as_often_as_it_says(truth, n):
    draws = np.random.default_rng(0).binomial(n, truth, size=4000)
    ends = {int(x): wilson(int(x), n) for x in set(draws)}
    covered = np.mean([ends[x].low <= truth <= ends[x].high for x in draws])
    # Binomial steps make the exact coverage of any interval oscillate around 95%.
    assert 0.92 <= covered <= 0.985


@pytest.mark.parametrize(
    ("totals", "truths"),
    [
        ([50, 50], [0.9, 0.9]),
        ([25, 25], [0.98, 0.98]),
        ([10] * 100, [0.95] * 100),
        ([500, 50, 10, 5], [0.99, 0.9, 0.7, 0.5]),
        ([50] * 10, list(np.linspace(0.5, 1, 10))),
    ],
)
def test_the_interval_of_a_mean_covers_the_truth(totals, truths):
    draws = np.random.default_rng(0).binomial(totals, truths, size=(2000, len(totals)))
    found = [wilson_mean(draw, np.array(totals)) for draw in draws]
    assert 0.89 <= np.mean([each.low <= np.mean(truths) <= each.high for each in found]) <= 0.985


def test_the_mean_of_one_proportion_is_that_proportion():
    assert wilson_mean(np.array([37]), np.array([50]), 0.9) == wilson(37, 50, 0.9)


def test_the_mean_of_equal_classes_is_the_proportion_of_all():
    ours, pooled = wilson_mean(np.array([8, 9, 10]), np.array([10, 10, 10])), wilson(27, 30)
    assert (ours.value, ours.low, ours.high) == pytest.approx((pooled.value, pooled.low, pooled.high))
    assert ours.n == 30


def test_a_class_without_images_is_left_out_of_the_mean():
    assert wilson_mean(np.array([3, 0]), np.array([4, 0])) == wilson(3, 4)


def test_bootstrap_of_accuracy_agrees_with_wilson():
    ours = bootstrap_from_confusion(CONFUSION * 10, accuracy_of, seed=0, rounds=4000)
    theirs = wilson(770, 1000)
    assert ours.value == theirs.value
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_bootstrap_covers_the_truth():
    rng = np.random.default_rng(1)
    probabilities = CONFUSION.ravel() / CONFUSION.sum()
    truth = macro_f1(CONFUSION)
    tables = rng.multinomial(400, probabilities, size=400).reshape(-1, 3, 3)
    found = [bootstrap_from_confusion(table, macro_f1, seed=2, rounds=300) for table in tables]
    assert 0.91 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98


def test_bootstrap_is_a_function_of_its_seed():
    first, again, other = (bootstrap_from_confusion(CONFUSION, macro_f1, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_bootstrap_does_not_depend_on_how_much_it_draws_at_a_time(monkeypatch):
    whole = bootstrap_from_confusion(CONFUSION, macro_f1, seed=0, rounds=100)
    monkeypatch.setattr(intervals, "CELLS_AT_ONCE", 9 * 7)
    assert bootstrap_from_confusion(CONFUSION, macro_f1, seed=0, rounds=100) == whole


def test_bootstrap_keeps_the_number_of_images():
    def images(tables):
        return tables.sum((-2, -1)).astype(float)

    interval = bootstrap_from_confusion(CONFUSION, images, seed=0)
    assert interval.low == interval.value == interval.high == interval.n == 100


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_impossible_proportions_raise(successes, n):
    with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
        wilson(successes, n)
    with pytest.raises(ValueError, match="total"):
        wilson_mean(np.array([successes]), np.array([n]))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, float("nan")])
def test_confidence_outside_zero_to_one_raises(confidence):
    with pytest.raises(ValueError, match="confidence is"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match="confidence is"):
        bootstrap_from_confusion(CONFUSION, macro_f1, seed=0, confidence=confidence)
    with pytest.raises(ValueError, match="confidence is"):
        bootstrap_over_images(share_of_first(2), 10, seed=0, confidence=confidence)


def test_a_bootstrap_of_nothing_raises():
    with pytest.raises(ValueError, match="1000 rounds over 0 images"):
        bootstrap_from_confusion(np.zeros((2, 2), dtype=np.int64), macro_f1, seed=0)
    with pytest.raises(ValueError, match="0 rounds over 100 images"):
        bootstrap_from_confusion(CONFUSION, macro_f1, seed=0, rounds=0)
    with pytest.raises(ValueError, match="1000 rounds over 0 images"):
        bootstrap_over_images(share_of_first(2), 0, seed=0)
    with pytest.raises(ValueError, match="0 rounds over 10 images"):
        bootstrap_over_images(share_of_first(2), 10, seed=0, rounds=0)


def share_of_first(number):
    """The share of the first images among those drawn."""
    return lambda drawn: drawn[:number].sum(0) / drawn.sum(0)


def test_the_bootstrap_over_images_draws_as_many_as_there_are_and_agrees_with_wilson_on_a_share():
    sums = []

    def watched(drawn):
        sums.extend(drawn.sum(0).tolist())
        return share_of_first(120)(drawn)

    interval = bootstrap_over_images(watched, 400, seed=0)
    assert sums == [400] * 1001
    assert (interval.value, interval.n) == (0.3, 400)
    assert interval.low == pytest.approx(wilson(120, 400).low, abs=0.01)
    assert interval.high == pytest.approx(wilson(120, 400).high, abs=0.01)
    assert interval == bootstrap_over_images(share_of_first(120), 400, seed=0)
    assert interval != bootstrap_over_images(share_of_first(120), 400, seed=1)


def test_what_redrawing_adds_is_taken_off_at_the_other_end():
    def inflated(drawn):  # images drawn twice count more: 0.2 of all, and more in every round
        return 0.2 + 0.3 * (drawn > 1).mean(0)

    interval = bootstrap_over_images(inflated, 200, seed=0)
    assert interval.high == interval.value == 0.2  # an end does not pass the value
    assert interval.low == pytest.approx(0.2 - 0.3 * 0.264, abs=0.02)  # 1 - 2 / e of the images are drawn twice or more


def test_ends_stay_between_zero_and_one():
    interval = bootstrap_over_images(share_of_first(2), 4, seed=0)
    assert 0 == interval.low < interval.value < interval.high == 1


def test_rounds_without_a_value_are_left_out():
    def when_drawn(drawn):
        return np.where(drawn[0] > 0, drawn[1:51].sum(0) / 100, np.nan)

    interval = bootstrap_over_images(when_drawn, 100, seed=0)
    assert 0.3 < interval.low < interval.value == 0.5 < interval.high < 0.7
