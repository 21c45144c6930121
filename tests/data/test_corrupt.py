"""Corruptions are the same for the same seed and image, worse with each severity, and never change their input."""

import numpy as np
import pytest

from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.data.corrupt import CORRUPTIONS, SEVERITIES, corrupt, corruptions, one_severity_each
from linnaeus.data.decode import load_image


def picture(side, channels=3, seed=0):
    """Soft blobs of colour with an edge and some grain, as photos have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0, 3, (channels, 3))]
    image = 128 + 80 * np.stack(waves, 2) + 40 * (x > y)[:, :, None] + rng.normal(0, 6, (side, side, channels))
    return image.clip(0, 255).astype(np.uint8)


def distance(image, other):
    return float(np.abs(image.astype(float) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 96])
def test_each_severity_is_further_from_the_image(name, side):
    pictures = [picture(side, seed=seed) for seed in range(4)]
    gaps = []
    for severity in range(1, SEVERITIES + 1):
        spoiled = [corrupt(image, name, severity, seed=0, index=i) for i, image in enumerate(pictures)]
        gaps.append(np.mean([distance(one, two) for one, two in zip(spoiled, pictures, strict=True)]))
    assert gaps[0] > 0
    assert (np.diff(gaps) > 0).all(), gaps


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shapes_and_types_stay_and_the_input_too(name):
    image = picture(40)[:, :33]
    before = image.copy()
    for severity in (1, 5):
        result = corrupt(image, name, severity, seed=0, index=0)
        assert (result.shape, result.dtype) == ((40, 33, 3), np.uint8)
    assert np.array_equal(image, before)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_draw_is_of_seed_and_index_alone(name):
    image = picture(32)
    draw = [corrupt(image, name, 3, seed=seed, index=index) for seed, index in ((0, 7), (0, 8), (1, 7), (0, 7))]
    assert np.array_equal(draw[0], draw[3])
    is_drawn = name in {"motion_blur", "haze", "shift", "occlusion"} or "noise" in name
    if is_drawn:
        assert not np.array_equal(draw[0], draw[1])
        assert not np.array_equal(draw[0], draw[2])


def test_severities_share_the_grain():
    image = np.full((64, 64, 3), 128, np.uint8)
    mild, strong = (corrupt(image, "gaussian_noise", s, seed=0, index=0).astype(float) - 128 for s in (1, 3))
    assert np.corrcoef(mild.ravel(), strong.ravel())[0, 1] > 0.95


def test_grey_images_get_what_has_an_effect():
    image = picture(32, channels=1)
    names = [name for name, _, _ in one_severity_each(image, 0, seed=0, index=0)]
    assert names == list(corruptions(1)) == [name for name in CORRUPTIONS if name not in ("greyscale", "colour_cast")]
    assert all(spoiled.shape == (32, 32, 1) for _, _, spoiled in one_severity_each(image, 0, seed=0, index=0))


def test_five_images_bring_every_kind_in_every_severity_once():
    image = picture(32)
    seen = {(name, s) for turn in range(5) for name, s, _ in one_severity_each(image, turn, seed=0, index=turn)}
    assert seen == {(name, severity) for name in CORRUPTIONS for severity in range(1, 6)}
    assert len(CORRUPTIONS) >= 14


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("fog", 1, "no corruption 'fog': expected one of gaussian_noise"), ("blur", 0, "severity is 0: expected 1 to 5")],
)
def test_nonsense_is_refused(name, severity, message):
    with pytest.raises(RequestError, match=message):
        corrupt(picture(32), name, severity, seed=0, index=0)


def test_a_corruption_without_effect_is_refused():
    with pytest.raises(RequestError, match="greyscale changes nothing"):
        corrupt(picture(32, channels=1), "greyscale", 1, seed=0, index=0)


def test_on_real_photos_each_severity_is_further_too(real_data):
    preprocess = Preprocess(Geometry(64, 64, (0.5,) * 3, (0.25,) * 3))
    paths = sorted((real_data("hymenoptera") / "val").rglob("*.jpg"))[::12]
    photos = [preprocess.fit(load_image(path)).permute(1, 2, 0).numpy() for path in paths]
    for name in CORRUPTIONS:
        gaps = [
            np.mean([distance(corrupt(photo, name, s, seed=0, index=i), photo) for i, photo in enumerate(photos)])
            for s in range(1, SEVERITIES + 1)
        ]
        assert gaps[0] > 0
        assert (np.diff(gaps) > 0).all(), (name, gaps)
