"""Each operation computes what torchvision computes for uint8 tensors, to one grey level, and the same in any batch."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.data import operations
from linnaeus.data.decode import decode

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (61, 47, 3), np.uint8)
PICTURES = {
    "noise": NOISE,
    "dim": NOISE // 3 + 20,
    "slopes": np.add.outer(np.arange(48), 3 * np.arange(32))[..., None].repeat(3, 2).astype(np.uint8)
    + np.uint8([0, 9, 30]),
    "grey": NOISE[..., :1],
    "one colour": np.full((5, 7, 3), 80, np.uint8),
    "white": np.full((5, 7, 3), 255, np.uint8),
    "one pixel": np.full((1, 1, 3), 80, np.uint8),
    "four pixels": NOISE[:2, :2],
}
SMALL = ("one colour", "white", "one pixel", "four pixels")  # where one value is a large share
NEAREST = InterpolationMode.NEAREST

# name: (what torchvision calls for a (C, H, W) tensor, amounts, the share of values that may be one grey level off)
CASES = {
    "brightness": (F.adjust_brightness, [0.01, 0.6, 1.3, 1.99], 0),
    "contrast": (F.adjust_contrast, [0.01, 0.6, 1.3, 1.99], 1.0),
    "saturation": (F.adjust_saturation, [0.01, 0.6, 1.3, 1.99], 0.05),
    "hue": (F.adjust_hue, [-0.5, -0.2, 0.03, 0.1, 0.5], 0.3),
    "sharpness": (F.adjust_sharpness, [0.01, 0.6, 1.3, 1.99], 0.01),
    "posterize": (F.posterize, [0, 2, 3, 8], 0),
    "solarize": (F.solarize, [0, 84.9, 85, 127.5, 255], 0),
    "autocontrast": (lambda image, _: F.autocontrast(image), [0], 0.2),
    "equalize": (lambda image, _: F.equalize(image), [0], 0),
    "translate_x": (lambda image, x: _affine(image, translate=[int(x), 0]), [5.9, -32, 8], 0),
    "translate_y": (lambda image, y: _affine(image, translate=[0, int(y)]), [5.9, -32, 8], 0),
    "shear_x": (lambda image, slope: _affine(image, shear=[_degrees(slope), 0.0], center=[0, 0]), [0.3, -0.99], 0),
    "shear_y": (lambda image, slope: _affine(image, shear=[0.0, _degrees(slope)], center=[0, 0]), [0.3, -0.99], 0),
    "rotate": (lambda image, angle: F.rotate(image, angle, NEAREST), [13, -134, 90, 180, -4.5], 0),
}


def _degrees(slope):
    return float(np.degrees(np.arctan(slope)))


def _affine(image, **given):
    usual = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    return F.affine(image, **{**usual, **given}, interpolation=NEAREST)


def ours(name, image, amount):
    return getattr(operations, name)(image[None], np.array([float(amount)]))[0]


def theirs(name, image, amount):
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return CASES[name][0](tensor, amount).permute(1, 2, 0).numpy()


def gaps(name, image, amount):
    return np.abs(ours(name, image, amount).astype(int) - theirs(name, image, amount))


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_torchvision(name, picture):
    for amount in CASES[name][1]:
        found = gaps(name, PICTURES[picture], amount)
        assert found.max() <= 1, amount
        assert found.mean() <= CASES[name][2] or picture in SMALL, amount


@pytest.fixture(scope="module")
def photo(real_data):
    path = min(real_data("hymenoptera").rglob("*.jpg"))
    fit = Preprocess(Geometry(224, 256, (0.5,) * 3, (0.5,) * 3)).fit
    return np.ascontiguousarray(fit(decode(path.read_bytes())).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_torchvision_on_a_photo(name, photo):
    for amount in CASES[name][1]:
        found = gaps(name, photo, amount)
        if name == "rotate":  # where a point lies within float32's error of the middle between two pixels
            assert (found > 0).mean() < 1e-4, amount
        else:
            assert found.max() <= 1, amount
            assert found.mean() <= CASES[name][2], amount


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_an_image_comes_out_the_same_in_any_batch_and_goes_in_unharmed(name, channels):
    images = RNG.integers(0, 256, (12, 9, 13, channels), np.uint8)
    amounts = RNG.choice(np.array(CASES[name][1], float), 12)
    before = images.copy()
    together = getattr(operations, name)(images, amounts)
    alone = [ours(name, image, amount) for image, amount in zip(images, amounts, strict=True)]
    strided = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)  # as torch resizes them
    assert together.dtype == np.uint8
    assert np.array_equal(together, np.stack(alone))
    assert np.array_equal(together, getattr(operations, name)(strided, amounts))
    assert np.array_equal(images, before)
    assert not np.shares_memory(together, images)


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("brightness", 1),
        ("contrast", 1),
        ("saturation", 1),
        ("hue", 0),
        ("hue", 1),
        ("sharpness", 1),
        ("posterize", 8),
        ("translate_x", 0.9),
        ("translate_y", -0.9),
        ("shear_x", 0),
        ("shear_y", 0),
        ("rotate", 0),
        ("rotate", 360),
    ],
)
def test_some_amounts_change_nothing(name, amount):
    assert np.array_equal(ours(name, NOISE, amount), NOISE)


def test_a_quarter_turn_of_a_square_is_exact():
    square = NOISE[:47]
    for quarters in (-1, 1, 2, 3):
        assert np.array_equal(ours("rotate", square, 90 * quarters), np.rot90(square, quarters))


def test_what_moves_in_is_zero():
    white = np.full((40, 40, 3), 255, np.uint8)
    for name, amount in [("translate_x", 41), ("translate_y", -40)]:
        assert not ours(name, white, amount).any()
    turned = ours("rotate", white, 45)
    assert not turned[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert (turned[20, 20] == 255).all()


def test_a_third_of_a_turn_makes_red_green_and_green_blue():
    colours = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200], [90, 90, 90]]], np.uint8)
    assert ours("hue", colours, 1 / 3).tolist() == [[[0, 200, 0], [0, 0, 200], [200, 0, 0], [90, 90, 90]]]


def test_images_of_other_than_three_channels_have_no_colour():
    five = RNG.integers(0, 256, (8, 8, 5), np.uint8)
    assert np.array_equal(ours("saturation", five, 0), five)
    assert np.array_equal(ours("hue", five, 0.3), five)
    assert (ours("contrast", five, 0) == int(five.mean())).all()
