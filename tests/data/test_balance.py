"""Weights and draws make unequal classes equal, each by its formula; draws forget nothing and nobody."""

import numpy as np
import pytest

from linnaeus.data.balance import balanced_rows, class_weights, logit_offsets, positive_weights

COUNTS = np.array([900, 90, 10])
CLASSES = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS))


def test_balanced_weights_give_every_class_the_same_sum():
    weights = class_weights(COUNTS, "balanced")
    assert (weights * COUNTS).tolist() == pytest.approx([1000 / 3] * 3)


def test_effective_weights_are_the_formula_of_cui_et_al_and_milder():
    weights = class_weights(COUNTS, "effective")
    b = 1 - 1 / 1000
    expected = (1 - b) / (1 - b**COUNTS)
    assert (weights / weights[0]).tolist() == pytest.approx((expected / expected[0]).tolist(), rel=1e-9)
    balanced = class_weights(COUNTS, "balanced")
    assert 1 < weights[2] / weights[0] < balanced[2] / balanced[0]


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_the_mean_weight_of_an_image_is_one(how):
    assert (class_weights(COUNTS, how) * COUNTS).sum() == pytest.approx(1000)
    assert class_weights(np.array([7, 7]), how).tolist() == pytest.approx([1.0, 1.0])


def test_positive_weights_make_yes_and_no_count_the_same():
    assert (positive_weights(COUNTS, 1000) * COUNTS).tolist() == pytest.approx([100, 910, 990])
    assert positive_weights(np.array([5]), 5).tolist() == [0.2]


def test_a_class_without_images_is_refused():
    for call in (lambda c: class_weights(c, "balanced"), lambda c: positive_weights(c, 9)):
        with pytest.raises(ValueError, match="class 1 has no training image"):
            call(np.array([3, 0, 4]))


def test_offsets_are_the_logarithms_of_the_shares():
    shares = COUNTS / 1000
    assert np.exp(logit_offsets(shares, 1.0)).tolist() == pytest.approx(shares.tolist())
    assert logit_offsets(shares, 0.5).tolist() == pytest.approx((np.log(shares) / 2).tolist())
    with pytest.raises(ValueError, match="sum to 1"):
        logit_offsets(COUNTS.astype(float), 1.0)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_has_every_class_equally_often_to_one_image(epoch):
    rows = balanced_rows(CLASSES, seed=3, epoch=epoch)
    assert len(rows) == len(CLASSES)
    assert sorted(np.bincount(CLASSES[rows])) == [333, 333, 334]


def test_over_the_epochs_each_image_comes_as_often_as_the_others_of_its_class():
    seen = np.zeros(1000, int)
    for epoch in range(11):
        seen += np.bincount(balanced_rows(CLASSES, seed=3, epoch=epoch), minlength=1000)
        for name in range(3):
            own = seen[name == CLASSES]
            assert own.max() - own.min() <= 1


def test_rows_are_shuffled_and_depend_on_the_seed_and_the_epoch_alone():
    rows = [balanced_rows(CLASSES, seed=s, epoch=e).tolist() for s, e in ((3, 2), (3, 2), (4, 2), (3, 3))]
    assert rows[0] == rows[1]
    assert rows[0] not in rows[2:]
    classes = CLASSES[rows[0]]
    assert all(70 < (classes[part] == 0).sum() < 130 for part in (slice(0, 300), slice(300, 600), slice(600, 900)))
    first = [balanced_rows(CLASSES, seed=3, epoch=e) for e in (0, 1)]
    rare = [r[CLASSES[r] == 2].tolist() for r in first]
    assert rare[0][:10] != rare[1][:10]


def test_equal_classes_are_a_permutation():
    rows = balanced_rows(np.arange(60) % 4, seed=0, epoch=5)
    assert sorted(rows.tolist()) == list(range(60))
