"""A planted failure is found, and noise is not, however many slices are looked at."""

import numpy as np
import pytest

from linnaeus.metrics.slices import OTHERS, Column, as_column, by_quantiles, find_slices


def columns_of(rng, images, number=5):
    return {f"c{i}": Column(tuple("abcdef"), rng.integers(0, 6, images).astype(np.int32)) for i in range(number)}


def test_a_planted_failure_is_the_only_one_found():
    rng = np.random.default_rng(0)
    columns = columns_of(rng, 1000)
    bad = columns["c2"].codes == 3
    right = rng.random(1000) < np.where(bad, 0.7, 0.95)
    assert [(each.column, each.value) for each in find_slices(right, columns) if each.fails] == [("c2", "d")]


def test_noise_is_called_a_failure_in_at_most_one_of_twenty_evaluations():
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(60):
        alarms += any(each.fails for each in find_slices(rng.random(600) < 0.9, columns_of(rng, 600)))
    assert alarms <= 6


def test_p_values_are_those_of_fisher_times_the_slices():
    stats = pytest.importorskip("scipy.stats")
    right = np.array([True] * 60 + [False] * 15 + [True] * 60 + [False] * 2)
    codes = np.array([0] * 75 + [1] * 62, np.int32)
    first, second = find_slices(right, {"camera": Column(("a", "b"), codes)})
    expected = stats.fisher_exact([[15, 60], [2, 60]], alternative="greater").pvalue
    assert first.p_value == pytest.approx(2 * expected)
    assert (first.accuracy.value, first.accuracy.n, first.rest) == (60 / 75, 75, 60 / 62)
    assert second.p_value == pytest.approx(1, abs=1e-3)


def test_rare_values_are_taken_together_and_one_value_is_no_slice():
    codes = np.array([0] * 20 + [1] * 20 + [2, 3, 4], np.int32)
    found = find_slices(np.ones(43, bool), {"x": Column(tuple("abcde"), codes), "y": Column(("z",), 0 * codes)})
    assert [(each.value, each.accuracy.n) for each in found] == [("a", 20), ("b", 20), (OTHERS, 3)]


def test_numbers_are_cut_into_quarters_and_names_are_not():
    column = by_quantiles(np.arange(100.0), "{:.0f} px")
    assert column.values == ("up to 24 px", "24 px to 49 px", "49 px to 74 px", "above 74 px")
    assert np.bincount(column.codes).tolist() == [25, 25, 25, 25]
    assert by_quantiles(np.full(5, 3.0), "{:g}").values == ("3",)
    codes = np.arange(40, dtype=np.int32)
    assert len(as_column([str(n) for n in range(40)], codes).values) == 4
    assert len(as_column([f"site {n}" for n in range(40)], codes).values) == 40
