"""Colour means the map alone, small images keep their pixels, the page fetches nothing and escapes what it shows."""

import io

import numpy as np
from PIL import Image

from linnaeus.report.overlay import (
    AGAINST,
    FOR,
    INFERNO,
    SIDE,
    Explanation,
    Map,
    enlarge,
    explanation_page,
    explanation_picture,
    overlay,
)


def seen(side=32, channels=3):
    return np.random.default_rng(0).integers(0, 256, (side, side, channels), np.uint8)


def chart(heat, *, signed=False):
    return Map("Grad-CAM", np.array(heat, np.float32), signed, "up to 1")


def test_the_strongest_place_is_the_brightest_and_nothing_is_dark():
    grey = np.full((32, 32, 3), 100, np.uint8)
    drawn = overlay(grey, chart([[0, 0], [0, 2]]))
    assert drawn.shape == (SIDE, SIDE, 3)
    assert np.allclose(drawn[-1, -1], 0.45 * 100 + 0.55 * np.array(INFERNO[-1]), atol=2)
    assert np.allclose(drawn[0, 0], 0.45 * 100 + 0.55 * np.array(INFERNO[0]), atol=5)


def test_two_signs_have_two_colours_and_zero_has_none():
    drawn = overlay(seen(channels=1), chart([[1, 0, -1]] * 3, signed=True))
    assert np.allclose(drawn[SIDE // 2, 0], FOR, atol=2)
    assert np.allclose(drawn[SIDE // 2, -1], AGAINST, atol=2)
    assert np.ptp(drawn[:, SIDE // 2].astype(int), axis=1).max() <= 40  # grey in the middle


def test_brightness_grows_with_the_map_for_who_sees_no_colour():
    ramp = overlay(np.full((224, 224, 3), 100, np.uint8), chart([np.linspace(0, 1, 224)] * 224))
    luma = ramp[112] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luma[::8]) > 0).all()


def test_a_map_of_nothing_is_drawn():
    for signed in (False, True):
        assert overlay(seen(), chart(np.zeros((2, 2)), signed=signed)).shape == (SIDE, SIDE, 3)


def test_small_images_are_enlarged_by_whole_pixels():
    pixels = seen(28, 1)
    large = np.asarray(enlarge(pixels))
    assert large.shape == (SIDE, SIDE)
    assert np.array_equal(large[::8, ::8], pixels[:, :, 0])


def test_picture_and_page_show_every_map():
    shown = Explanation("<b>.jpg", "cat & dog 90.0%", seen(), [chart([[1, 0]]), chart([[1, -1]], signed=True)])
    failed = Explanation("broken.jpg", "Cannot be read: truncated", None)
    picture = Image.open(io.BytesIO(explanation_picture(shown)))
    assert picture.width > 3 * SIDE
    page = explanation_page("runs/1", ["a line"], [shown, failed])
    assert page.count("<img") == 3
    assert "&lt;b&gt;.jpg" in page
    assert "cat &amp; dog" in page
    assert "Cannot be read: truncated" in page
    assert "http" not in page
    assert "against the class" in page
