"""Statistics of two piles of images: equal to their definitions, silent where nothing differs, loud where much does."""

from math import erfc, exp

import numpy as np
import pytest

from linnaeus.data.duplicates import Twins
from linnaeus.data.facts import Audit, blank
from linnaeus.data.findings import Case
from linnaeus.data.shift import (
    check_naming,
    check_shift,
    chi_square_probability,
    cramers_v,
    ks_distance,
    ks_probability,
)
from linnaeus.data.sources.base import Facet, Labels


def case(count: int = 200, *, names=None, extra=None, **columns) -> Case:
    """Half of the images in train, half in test, and columns of facts for each half."""
    rows = blank(2 * count)
    for name, values in {"shape": (100, 100, 3), "grey": 100, **columns}.items():
        rows[name][:] = values
    splits = np.repeat(["train", "test"], count)
    labels = Labels(("a", "b"), np.arange(2 * count) % 2, splits, extra=extra or {})
    nothing = np.zeros(0, np.int64)
    twins = Twins(np.arange(2 * count), nothing, nothing, nothing.astype(bool))
    return Case(labels, Audit(rows, {}, {}, {}, 0), twins, names or (lambda index: f"{splits[index]}/a/{index}.jpg"))


def test_the_distance_is_the_largest_gap_of_the_cumulative_distributions():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 50).astype(float), rng.integers(3, 25, 37).astype(float)
    expected = max(abs((a <= x).mean() - (b <= x).mean()) for x in range(25))
    assert ks_distance(a, b) == pytest.approx(expected)
    assert ks_distance(a, a) == 0
    assert ks_distance(a, a + 100) == 1


@pytest.mark.parametrize(("scaled", "chance"), [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)])
def test_the_chance_is_kolmogorovs(scaled, chance):
    """The critical values of every table, for large samples."""
    assert ks_probability(scaled / 50_000**0.5, 100_000, 100_000) == pytest.approx(chance, rel=0.01)


def test_the_chance_is_right_for_small_samples_too():
    rng = np.random.default_rng(0)
    distances = [ks_distance(rng.random(30), rng.random(40)) for _ in range(2000)]
    for chance in (0.2, 0.05):
        observed = np.mean([ks_probability(d, 30, 40) <= chance for d in distances])
        assert observed == pytest.approx(chance, abs=3 * (chance / 2000) ** 0.5 + 0.01)


def test_a_distance_of_nothing_is_certain_to_happen():
    assert ks_probability(0.0, 100, 100) == 1
    assert ks_probability(1.0, 100, 100) < exp(-90)


def test_the_association_is_one_for_a_perfect_one_and_near_zero_for_none():
    assert cramers_v(np.array([[500, 0], [0, 500]])) == pytest.approx(1, abs=0.01)
    assert cramers_v(np.array([[300, 200], [300, 200]])) == 0
    assert cramers_v(np.array([[10, 20]])) == 0
    # Uncorrected V of this table is 0.3.
    assert cramers_v(np.array([[650, 350], [350, 650]])) == pytest.approx(0.3, abs=0.002)


def test_many_rare_categories_are_no_association():
    rng = np.random.default_rng(0)
    tables = [np.stack([np.bincount(rng.integers(0, 80, 100), minlength=80) for _ in range(2)]) for _ in range(200)]
    assert np.mean([cramers_v(table) for table in tables]) < 0.15
    assert min(chi_square_probability(table) for table in tables) > 1e-4


def test_the_chance_of_a_table_is_close_to_chi_squares():
    """With one degree of freedom it is that of a normal variable's square; with two it is exp(-x / 2)."""
    assert chi_square_probability(np.array([[60, 40], [40, 60]])) == pytest.approx(erfc((8 / 2) ** 0.5), rel=0.05)
    # Both expectations are 20 in each cell: x = (5 * 5 + 5 * 5) / 20 * 2 = 5.
    assert chi_square_probability(np.array([[25, 15, 20], [15, 25, 20]])) == pytest.approx(exp(-5 / 2), rel=0.05)
    assert chi_square_probability(np.array([[3, 4]])) == 1


def test_alike_splits_give_no_finding():
    rng = np.random.default_rng(0)
    shape = np.stack([rng.integers(90, 500, 400), rng.integers(90, 500, 400), np.full(400, 3)], 1)
    grey = np.broadcast_to(rng.integers(0, 256, (400, 1, 1)), (400, 32, 32))
    assert list(check_shift(case(shape=shape, grey=grey, format=b"JPEG", camera=b"X100"))) == []
    assert list(check_naming(case())) == []


LATER = np.repeat([False, True], 200)
DIFFERENT = {
    "size": {"shape": np.where(LATER[:, None], [64, 64, 3], [400, 400, 3])},
    "shape": {"shape": np.where(LATER[:, None], [100, 300, 3], [300, 100, 3])},
    "brightness": {"grey": np.where(LATER[:, None, None], 60, 150)},
    "file format": {"format": np.where(LATER, b"PNG", b"JPEG")},
    "camera": {"camera": np.where(LATER, b"DMC-TZ3", b"X100")},
    "grey or in colour": {"shape": np.where(LATER[:, None], [100, 100, 1], [100, 100, 3])},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_planted_difference_is_found_and_nothing_else(what):
    (finding,) = check_shift(case(**DIFFERENT[what]))
    assert what in finding.reason
    assert "train and test differ" in finding.reason


def test_a_column_of_the_source_is_compared_too():
    hospitals = Facet(("north", "south"), LATER.astype(np.int32))
    (finding,) = check_shift(case(extra={"hospital": hospitals}))
    assert "'hospital'" in finding.reason


def test_a_difference_that_may_be_an_accident_is_none():
    """Of 20 images each, 12 and 5 in one format: a strong association, and chance does it once in 40 times."""
    formats = np.repeat([b"JPEG", b"PNG", b"JPEG", b"PNG"], [12, 8, 5, 15])
    assert cramers_v(np.array([[12, 8], [5, 15]])) > 0.3
    assert list(check_shift(case(20, format=formats))) == []
    grey = np.repeat([50, 150, 50, 150], [12, 8, 5, 15])[:, None, None]
    assert list(check_shift(case(20, grey=grey))) == []


def test_few_images_say_nothing():
    grey = np.where(np.repeat([False, True], 15)[:, None, None], 60, 150)
    assert list(check_shift(case(15, grey=grey))) == []


def test_images_that_do_not_decode_are_not_compared():
    whole = case(30, grey=np.where(np.repeat([False, True], 30)[:, None, None], 60, 150))
    broken = Audit(whole.audit.rows, dict.fromkeys(range(25), "damaged"), {}, {}, 0)
    assert list(check_shift(Case(whole.labels, broken, whole.twins, whole.name))) == []


def test_other_names_are_noticed_unless_it_is_the_splits_name():
    named = case(names=lambda i: f"train/a/IMG_{i}.jpg" if i < 200 else f"test/a/scan-{i}.jpg")
    (finding,) = check_naming(named)
    assert "IMG_0.jpg and scan-200.jpg" in finding.reason
    assert list(check_naming(case(names=lambda i: f"img_{'train' if i < 200 else 'test'}_{i}.jpg"))) == []
