"""The learning curve grows with its images, and says what twice as many would bring."""

import numpy as np
import pytest

from linnaeus.app.curve import _doubled, learning_curve, num_fits, sizes_of


def test_sizes_are_halves_that_hold_some_of_each_class():
    assert sizes_of(400, 4) == [12, 25, 50, 100, 200, 400]
    assert sizes_of(30, 10) == [30]


def test_a_power_law_is_continued():
    sizes = [100, 200, 400, 800]
    wanted = [0.4 * (n / 100) ** -0.5 for n in (*sizes, 1600)]
    right = np.repeat(1 - np.array(wanted[:-1])[:, None], 2000, 1)  # every test image alike
    found = _doubled(right, sizes)
    assert found.value == pytest.approx(1 - wanted[-1], abs=1e-9)
    assert found.low <= found.value <= found.high


def test_without_errors_there_is_no_law():
    assert _doubled(np.ones((4, 50)), [10, 20, 40, 80]) is None


def test_more_images_help_where_there_is_something_to_learn():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 3))
    features = rng.standard_normal((900, 40))
    truths = np.arange(3) == (features @ weights + 2 * rng.standard_normal((900, 3))).argmax(1)[:, None]
    calls = []
    curve = learning_curve(
        (features[:400], truths[:400]),
        (features[400:], truths[400:]),
        ["a", "b", "c"],
        features="numbers",
        is_own=True,
        progress=calls.append,
    )
    assert sum(calls) == num_fits(400, 3)
    assert curve.points[-1].accuracy > curve.points[0].accuracy + 0.1
    assert curve.doubled.value >= curve.points[-1].accuracy
    assert {name for name, _ in curve.gains} == {"a", "b", "c"}
