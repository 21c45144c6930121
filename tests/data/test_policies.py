"""Policies draw what torchvision's draw, from the numbers of each image alone."""

import pickle
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from linnaeus.core.errors import RequestError
from linnaeus.core.seed import DRAWS, draws
from linnaeus.data import operations
from linnaeus.data.augment import JITTER, POLICY
from linnaeus.data.policies import (
    MAX_OPS,
    POLICIES,
    RAND,
    WIDE,
    color_jitter,
    make_policy,
    rand_augment,
    trivial_augment,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 11, 9, 3), np.uint8)
PLACES = range(DRAWS)

# torchvision's names, in its order, which is ours.
NAMES = {
    "Identity": "identity",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x",
    "TranslateY": "translate_y",
    "Rotate": "rotate",
    "Brightness": "brightness",
    "Color": "saturation",
    "Contrast": "contrast",
    "Sharpness": "sharpness",
    "Posterize": "posterize",
    "Solarize": "solarize",
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
}
AROUND_ONE = ("Brightness", "Color", "Contrast", "Sharpness")  # torchvision adds 1 later


@pytest.mark.parametrize(("space", "theirs"), [(WIDE, v2.TrivialAugmentWide), (RAND, v2.RandAugment)])
def test_a_space_is_that_of_torchvision(space, theirs):
    entries = theirs._AUGMENTATION_SPACE
    assert list(space) == [NAMES[name] for name in entries]
    height, width = 100, 200
    for name, (magnitudes, signed) in entries.items():
        amounts = space[NAMES[name]].amounts(np.arange(31.0), np.full(31, 0.5))
        opposite = space[NAMES[name]].amounts(np.arange(31.0), np.full(31, 0.49))
        expected = magnitudes(31, height, width)
        if expected is None:  # the operation knows no amount
            assert not amounts.any()
            continue
        middle = 1.0 if name in AROUND_ONE else 0.0
        scale = 255 if name == "Solarize" else 1
        if space is RAND and name.startswith("Translate"):
            scale = 1 / (width if name.endswith("X") else height)
        amounts = np.rint(amounts) if name == "Posterize" else amounts
        np.testing.assert_allclose(amounts, middle + scale * expected.numpy(), atol=1e-4)
        assert space[NAMES[name]].signed == signed
        if signed:
            np.testing.assert_allclose(opposite, middle - scale * expected.numpy(), atol=1e-4)


def row(which, level=0.0, sign=0.0, space=WIDE):
    """The numbers that choose one operation."""
    numbers = np.full(DRAWS, 0.99)
    numbers[POLICY][:3] = (list(space).index(which) + 0.5) / len(space), level, sign
    return numbers


@pytest.mark.parametrize("name", NAMES)
def test_trivial_augment_is_one_operation_of_torchvisions_at_one_level(name):
    theirs = v2.TrivialAugmentWide()
    image = np.random.default_rng(1).integers(0, 256, (1, 40, 30, 3), np.uint8)
    tensor = torch.from_numpy(image[0]).permute(2, 0, 1).contiguous()
    magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
    amounts = magnitudes(31, 40, 30)
    for level in (0, 7, 29):  # at 30, a turn by 135 degrees leaves points half-way between two pixels
        for sign in (1, -1):
            amount = 0.0 if amounts is None else float(amounts[level]) * (sign if signed else 1)
            expected = theirs._apply_image_or_video_transform(
                tensor, name, amount, v2.InterpolationMode.NEAREST, {torch.Tensor: 0}
            )
            found = trivial_augment(image, row(NAMES[name], (level + 0.5) / 31, 0.3 if sign < 0 else 0.7)[None])
            gap = np.abs(found[0].astype(int) - expected.permute(1, 2, 0).numpy())
            assert gap.max() <= 1, (level, sign)


def test_trivial_augment_takes_each_operation_level_and_sign_equally_often():
    numbers = draws(0, "augment", 0, start=0, count=20_000)[:, POLICY]
    for column, kinds in ((0, 14), (1, 31), (2, 2)):
        counts = np.bincount((numbers[:, column] * kinds).astype(int), minlength=kinds)
        expected = len(numbers) / kinds
        assert ((counts - expected) ** 2 / expected).sum() < kinds + 5 * np.sqrt(2 * kinds)  # chi-square


def test_rand_augment_applies_its_operations_one_after_the_other():
    numbers = np.full((1, DRAWS), 0.99)
    shear, solarize, equalize = ((list(RAND).index(name) + 0.5) / 14 for name in ("shear_x", "solarize", "equalize"))
    numbers[0, POLICY][:9] = [shear, 0.5, 0.2, solarize, 0.5, 0.2, equalize, 0.5, 0.2]
    image = IMAGES[:1]
    expected = operations.shear_x(image, np.array([-0.3 * 12 / 30]))
    expected = operations.solarize(expected, np.array([255 - 255 * 12 / 30]))
    assert np.array_equal(rand_augment(image, numbers, magnitude=12), expected)
    expected = operations.equalize(expected, np.zeros(1))
    assert np.array_equal(rand_augment(image, numbers, magnitude=12, num_ops=3), expected)


def test_rand_augment_has_numbers_for_its_largest_number_of_operations():
    assert len(PLACES[POLICY]) == 3 * MAX_OPS
    numbers = draws(0, "augment", 0, start=0, count=40)
    others = numbers.copy()
    others[:, PLACES[POLICY][-1]] = 1 - others[:, PLACES[POLICY][-1]]  # the sign of the last operation
    fifth = [policy(IMAGES, numbers) for policy in (partial(rand_augment, num_ops=n) for n in (MAX_OPS - 1, MAX_OPS))]
    changed = rand_augment(IMAGES, others, num_ops=MAX_OPS)
    assert not np.array_equal(fifth[0], fifth[1])
    assert not np.array_equal(fifth[1], changed)


def jitter_row(order, shares):
    numbers = np.full(DRAWS, 0.99)
    numbers[JITTER] = [order, *shares]
    return numbers[None]


def test_color_jitter_changes_by_factors_in_an_order_drawn():
    shares = 0.1, 0.9, 0.3, 0.75
    chosen = {"brightness": 0.4, "contrast": 0.3, "saturation": 1.5, "hue": 0.2}
    amounts = 0.6 + 0.8 * 0.1, 0.7 + 0.6 * 0.9, 0.0 + 2.5 * 0.3, -0.2 + 0.4 * 0.75
    image = IMAGES[:1]
    in_order, backwards = image, image
    for number in range(4):
        in_order = getattr(operations, list(chosen)[number])(in_order, np.array([amounts[number]]))
        backwards = getattr(operations, list(chosen)[3 - number])(backwards, np.array([amounts[3 - number]]))
    assert np.array_equal(color_jitter(image, jitter_row(0.0, shares), **chosen), in_order)
    assert np.array_equal(color_jitter(image, jitter_row(0.999, shares), **chosen), backwards)
    assert not np.array_equal(in_order, backwards)


def test_color_jitter_looks_as_torchvisions_does():
    """Its order and factors are drawn by torchvision and handed to ours."""
    ranges = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    theirs, image = v2.ColorJitter(**ranges), IMAGES[:1]
    tensor = torch.from_numpy(image[0]).permute(2, 0, 1).contiguous()
    torch.manual_seed(0)
    orders = list(permutations(range(4)))
    for _ in range(50):
        params = theirs.make_params([tensor])
        order = (orders.index(tuple(params["fn_idx"].tolist())) + 0.5) / 24
        shares = [(params[f"{name}_factor"] - 1 + 0.4) / 0.8 for name in ("brightness", "contrast", "saturation")]
        shares.append((params["hue_factor"] + 0.1) / 0.2)
        expected = theirs.transform(tensor, params).permute(1, 2, 0).numpy()
        found = color_jitter(image, jitter_row(order, shares), **ranges)
        gap = np.abs(found[0].astype(int) - expected)
        assert gap.max() <= 5  # one level for each change, grown by factors of up to 1.4 and by the hue of near-greys
        assert gap.mean() < 0.5


def test_color_jitter_of_nothing_is_the_identity():
    nothing = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    assert np.array_equal(color_jitter(IMAGES, draws(0, "a", 0, start=0, count=40), **nothing), IMAGES)


def test_all_24_orders_of_color_jitter_are_equally_likely():
    numbers = draws(0, "augment", 0, start=0, count=24_000)[:, JITTER][:, 0]
    counts = np.bincount((numbers * 24).astype(int))
    assert len(counts) == 24
    assert ((counts - 1000) ** 2 / 1000).sum() < 24 + 5 * np.sqrt(48)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", POLICIES)
def test_an_image_comes_out_the_same_in_any_batch(name, channels):
    policy, images = make_policy(name), IMAGES[..., :channels]
    numbers = draws(3, "augment", 2, start=7, count=40)
    together = policy(images, numbers)
    alone = np.concatenate([policy(images[i : i + 1], numbers[i : i + 1]) for i in range(40)])
    shuffled = np.random.default_rng(2).permutation(40)
    assert np.array_equal(together, alone)
    assert np.array_equal(together[shuffled], policy(images[shuffled], numbers[shuffled]))
    assert (together != images).any(axis=(1, 2, 3)).sum() >= 20


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_leaves_its_input_alone_and_survives_pickling(name):
    policy, images = make_policy(name), IMAGES.copy()
    numbers = draws(0, "augment", 0, start=0, count=40)
    changed = pickle.loads(pickle.dumps(policy))(images, numbers)
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(changed, policy(images, numbers))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trivail", {}, "did you mean 'trivial'"),
        ("mosaic", {}, "choose one of jitter, trivial, rand"),
        ("trivial", {"magnitude": 9}, "trivial has no option magnitude: its options are none"),
        ("rand", {"level": 9}, "its options are num_ops, magnitude"),
        ("rand", {"num_ops": 6}, "rand: num_ops 6"),
        ("rand", {"magnitude": 31}, "magnitude 31"),
        ("jitter", {"contrast": -0.1}, "contrast -0.1"),
        ("jitter", {"hue": 0.6}, "hue 0.6"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_at_once(name, options, message):
    with pytest.raises(RequestError, match=message):
        make_policy(name, **options)


def test_options_reach_the_policy():
    numbers = draws(0, "augment", 0, start=0, count=40)
    expected = rand_augment(IMAGES, numbers, num_ops=1, magnitude=20)
    assert np.array_equal(make_policy("rand", num_ops=1, magnitude=20)(IMAGES, numbers), expected)
