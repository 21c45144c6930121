"""Draws are functions of (seed, purpose, epoch, position), however they are grouped."""

import numpy as np

from linnaeus.core.seed import DRAWS, derive, draws, permutation


def test_rows_do_not_depend_on_how_positions_are_grouped():
    whole = draws(3, "augment", 2, start=0, count=40)
    parts = [draws(3, "augment", 2, start=start, count=count) for start, count in ((0, 7), (7, 1), (8, 32))]
    assert np.array_equal(whole, np.concatenate(parts))
    assert whole.shape == (40, DRAWS)


def test_seed_purpose_and_epoch_each_change_the_draws():
    rows = [draws(*key, start=0, count=1)[0, 0] for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))]
    assert len(set(rows)) == 4


def test_draws_are_uniform():
    values = draws(0, "augment", 0, start=0, count=2000)
    assert 0 <= values.min() < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.06


def test_an_order_is_a_permutation_and_differs_between_epochs():
    first, second = (permutation(100, seed=1, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == list(range(100))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, permutation(100, seed=1, epoch=0))


def test_derived_seeds_fit_torch():
    assert 0 <= derive(2**62, "step", 10**9) < 2**63
