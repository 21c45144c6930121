"""Thumbnails are laid onto each other: a known move is undone, and slopes agree for the same picture alone."""

import numpy as np
import pytest
from PIL import Image

from linnaeus.data.alignment import align, detail, halve, slope_agreement, slopes

from .planted import draw_photo


def thumbnails(photos, box=None):
    small = [p.convert("L").resize((32, 32), Image.Resampling.BOX, box and box(p)) for p in photos]
    return np.stack([np.asarray(image) for image in small]).astype(np.float32)


PHOTOS = [draw_photo(seed) for seed in range(40)]
WHOLE = thumbnails(PHOTOS)


def test_halving_averages_squares_of_four():
    expected = WHOLE.reshape(40, 16, 2, 16, 2).mean((2, 4))
    np.testing.assert_allclose(halve(WHOLE), expected, rtol=1e-6)


def test_a_picture_agrees_with_itself_and_with_more_contrast_but_not_with_another():
    np.testing.assert_allclose(slope_agreement(WHOLE, WHOLE), 1, atol=1e-5)
    np.testing.assert_allclose(slope_agreement(WHOLE, 20 + 0.7 * WHOLE), 1, atol=1e-5)
    assert np.abs(slope_agreement(WHOLE, np.roll(WHOLE, 1, axis=0))).max() < 0.5


def test_flat_pictures_have_no_slopes_no_detail_and_no_agreement():
    flat = np.full((1, 32, 32), 7, np.uint8)
    assert not slopes(flat).any()
    assert detail(flat) == 0
    assert slope_agreement(flat.astype(np.float32), flat.astype(np.float32)) == 0


def test_detail_counts_slopes():
    """A dot, of the halved picture one pixel, has four slopes, and an edge has one wave along itself."""
    dot, edge = np.zeros((2, 1, 32, 32), np.uint8)
    dot[:, 14:16, 14:16] = edge[:, :, 16:] = 200
    assert detail(dot) == pytest.approx(4, rel=1e-5)
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (1, 32, 32))
    assert detail(ramp) == pytest.approx(1, rel=1e-3)
    assert detail(edge) < 15
    assert detail(WHOLE).min() > 100


def test_align_undoes_a_crop():
    def box(photo):  # 4% off on the left and at the top, 2% on the right
        return (0.04 * photo.width, 0.04 * photo.height, 0.98 * photo.width, photo.height)

    cropped = thumbnails(PHOTOS, box)
    before = slope_agreement(WHOLE, cropped)
    after = slope_agreement(align(WHOLE, cropped), cropped)
    assert np.median(before) < 0.8
    assert after.min() > 0.95


def test_align_makes_no_other_picture_fit():
    others = np.roll(WHOLE, 1, axis=0)
    assert slope_agreement(align(WHOLE, others), others).max() < 0.6


def test_align_takes_flat_pictures_and_none_at_all():
    flat = np.full((2, 32, 32), 5, np.float32)
    np.testing.assert_allclose(align(flat, WHOLE[:2]), flat)
    assert align(WHOLE[:0], WHOLE[:0]).shape == (0, 32, 32)
