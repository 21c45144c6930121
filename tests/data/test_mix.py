"""Mixing follows its formulas and depends on the seed and the step, not on how a batch is cut or padded."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linnaeus.data.mix import Mixing, cut_box, cutmix, mix, mixup, partners, soft_targets
from linnaeus.engine.loss import cross_entropy

MIXUP = Mixing(seed=3, num_classes=5, mixup=0.8)
CUTMIX = Mixing(seed=3, num_classes=5, cutmix=1.0)
BOTH = Mixing(seed=3, num_classes=5, mixup=0.8, cutmix=1.0)


def batch(size=8, height=6, width=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, height, width, generator=generator)
    return images, torch.arange(size) % 5, torch.ones(size, dtype=torch.bool)


def levels(size=8, height=20, width=30):
    """Images of one value each, its place in the batch, so that a mean tells what an image is made of."""
    images = torch.arange(float(size))[:, None, None, None].expand(-1, 1, height, width).contiguous()
    return images, torch.arange(size) % 5, torch.ones(size, dtype=torch.bool)


def test_mixup_is_the_weighted_mean_of_two_neighbours():
    images, targets, valid = batch()
    mixed, soft = mixup(images, soft_targets(targets, 5), partners(valid), share=0.7)
    other = [1, 0, 3, 2, 5, 4, 7, 6]
    torch.testing.assert_close(mixed, 0.7 * images + 0.3 * images[other])
    torch.testing.assert_close(soft, 0.7 * F.one_hot(targets, 5) + 0.3 * F.one_hot(targets[other], 5))


def test_mixup_with_all_of_itself_is_the_identity():
    images, targets, valid = batch()
    mixed, soft = mixup(images, soft_targets(targets, 5), partners(valid), share=1.0)
    assert torch.equal(mixed, images)
    assert torch.equal(soft, F.one_hot(targets, 5).float())


def test_cutmix_puts_in_the_box_of_the_neighbour_and_weighs_targets_by_area():
    images, targets, valid = batch()
    mixed, soft = cutmix(images, soft_targets(targets, 5), partners(valid), box=(1, 2, 5, 9))
    other = [1, 0, 3, 2, 5, 4, 7, 6]
    inside = torch.zeros(6, 10, dtype=torch.bool)
    inside[1:5, 2:9] = True
    assert torch.equal(mixed, torch.where(inside, images[other], images))
    share = 1 - 4 * 7 / 60
    torch.testing.assert_close(soft, share * F.one_hot(targets, 5) + (1 - share) * F.one_hot(targets[other], 5))


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])
def test_targets_say_what_the_images_are_made_of(mixing):
    images, targets, valid = levels()
    own, other = images[:, 0, 0, 0], images[[1, 0, 3, 2, 5, 4, 7, 6], 0, 0, 0]
    for step in range(40):
        mixed, soft = mix(images, targets, valid, step, mixing=mixing)
        share = soft[torch.arange(8), targets]
        torch.testing.assert_close(mixed.mean((1, 2, 3)), share * own + (1 - share) * other)
        torch.testing.assert_close(soft.sum(1), torch.ones(8))


def test_what_is_not_valid_is_mixed_with_nothing():
    images, targets, valid = batch(7)
    images[[2, 5]] = torch.nan  # would spread
    valid[[2, 5]] = False
    changed = 0
    for step in range(20):
        mixed, soft = mix(images, targets, valid, step, mixing=BOTH)
        changed += not torch.equal(mixed[0], images[0])
        for alone in (3, 4, 6):  # the neighbours of 2 and 5; 6 has none
            assert torch.equal(mixed[alone], images[alone])
            assert torch.equal(soft[alone], F.one_hot(targets, 5)[alone].float())
        assert mixed[valid].isfinite().all()
    assert changed >= 15  # a box can be empty


def test_padding_does_not_change_a_batch():
    images, targets, valid = batch(6)
    for step in range(10):
        plain = mix(images, targets, valid, step, mixing=BOTH)
        repeated = [0, 1, 2, 3, 4, 5, 5, 5, 5]
        padded = mix(images[repeated], targets[repeated], torch.arange(9) < 6, step, mixing=BOTH)
        assert torch.equal(plain[0], padded[0][:6])
        assert torch.equal(plain[1], padded[1][:6])


def test_a_batch_cut_between_pairs_gives_the_same_images():
    """As micro-batches and processes cut it."""
    whole = batch(10)
    for step in range(10):
        images, soft = mix(*whole, step, mixing=BOTH)
        parts = [mix(*(t[cut] for t in whole), step, mixing=BOTH) for cut in (slice(4), slice(4, 6), slice(6, 10))]
        assert torch.equal(images, torch.cat([part[0] for part in parts]))
        assert torch.equal(soft, torch.cat([part[1] for part in parts]))


def test_a_step_always_draws_the_same_and_another_step_or_seed_something_else():
    images, targets, valid = batch()
    torch.manual_seed(0)
    first = mix(images, targets, valid, 4, mixing=BOTH)
    torch.manual_seed(1)
    np.random.default_rng(1).random()
    again = mix(images, targets, valid, 4, mixing=BOTH)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    other_seed = Mixing(seed=4, num_classes=5, mixup=0.8, cutmix=1.0)
    for other in (mix(images, targets, valid, 5, mixing=BOTH), mix(images, targets, valid, 4, mixing=other_seed)):
        assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("alpha", [0.2, 0.8, 2.0])
def test_shares_of_mixup_are_beta_distributed(alpha):
    mixing = Mixing(seed=0, num_classes=2, mixup=alpha)
    images, targets, valid = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    shares = torch.stack([mix(images, targets, valid, step, mixing=mixing)[1][0, 0] for step in range(600)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(float(shares.mean()) - 0.5) < 5 * (variance / 600) ** 0.5
    assert float(shares.var()) == pytest.approx(variance, rel=0.15)


def test_probability_and_switch_are_the_shares_of_the_steps():
    images, targets, valid = levels(2)
    mixing = Mixing(seed=1, num_classes=5, mixup=1.0, cutmix=1.0, probability=0.6, switch=0.25)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for step in range(1000):
        mixed, _ = mix(images, targets, valid, step, mixing=mixing)
        values = mixed[1].unique()
        kinds["none" if torch.equal(mixed, images) else "mixup" if len(values) == 1 and values < 1 else "cutmix"] += 1
    assert kinds["none"] == pytest.approx(400 + 150 * 0.02, abs=80)  # a box may be empty
    assert kinds["mixup"] == pytest.approx(450, abs=80)
    assert kinds["cutmix"] == pytest.approx(150, abs=60)


def test_a_box_keeps_the_images_shape_and_its_share_of_the_area_unless_clipped():
    for share in (0.0, 0.19, 0.5, 0.75, 1.0):
        top, left, bottom, right = cut_box(200, 300, share=share, centre=(0.5, 0.5))
        assert (bottom - top) / 200 == pytest.approx((1 - share) ** 0.5, abs=0.006)
        assert (right - left) / 300 == pytest.approx((1 - share) ** 0.5, abs=0.006)
        assert abs((top + bottom) / 2 - 100) <= 1
        assert abs((left + right) / 2 - 150) <= 1
    assert cut_box(200, 300, share=0.75, centre=(0.0, 0.999)) == (0, 224, 50, 300)


def test_several_classes_an_image_mix_as_probabilities_do():
    images, _, valid = batch(2)
    targets = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.uint8)  # as a loader brings them
    for way in ("mixup", "cutmix"):
        _, soft = mix(images, targets, valid, 0, mixing=Mixing(seed=0, num_classes=3, **{way: 1.0}))
        share = float(soft[0, 0])
        assert 0 < share < 1
        torch.testing.assert_close(soft, torch.tensor([[share, 1.0, 1 - share], [1 - share, 1.0, share]]))
    _, unmixed = mix(images, targets, valid, 0, mixing=Mixing(seed=0, num_classes=3, mixup=1.0, probability=1e-9))
    torch.testing.assert_close(unmixed, targets.float())


def test_the_loss_of_mixed_targets_is_the_mixed_loss():
    """Label smoothing included: it is linear in the targets, so that its place does not matter."""
    _, targets, valid = batch()
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    other = [1, 0, 3, 2, 5, 4, 7, 6]
    soft = soft_targets(targets, 5).lerp(soft_targets(targets[other], 5), 0.3)
    mixed = cross_entropy(logits, soft, valid, label_smoothing=0.1)
    own = cross_entropy(logits, targets, valid, label_smoothing=0.1)
    theirs = cross_entropy(logits, targets[other], valid, label_smoothing=0.1)
    torch.testing.assert_close(mixed, 0.7 * own + 0.3 * theirs)


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_mixing_never_waits_for_the_device(mixing):
    """On the meta device there are no values: whatever had to read one would raise."""
    images, targets, valid = (tensor.to("meta") for tensor in batch())
    for step in range(5):
        mixed, soft = mix(images, targets, valid, step, mixing=mixing)
        assert mixed.shape == images.shape
        assert soft.shape == (8, 5)


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])
def test_the_memory_format_is_kept_and_the_input_is_left_alone(mixing):
    images, targets, valid = batch()
    images = images.to(memory_format=torch.channels_last)
    before = copy.deepcopy((images, targets))
    mixed, _ = mix(images, targets, valid, 0, mixing=mixing)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected one above 0"),
        ({"mixup": -1.0, "cutmix": 1.0}, "mixup -1.0"),
        ({"mixup": 1.0, "probability": 0.0}, "probability 0.0"),
        ({"mixup": 1.0, "cutmix": 1.0, "switch": 1.5}, "switch 1.5"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Mixing(seed=0, num_classes=5, **given)
