"""One object prepares images everywhere, and proves at every load that it still does the same."""

import numpy as np
import pytest
import torch
from PIL import Image

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Geometry, Preprocess, to_channels

GEOMETRY = Geometry(32, 40, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_forward_is_the_textbook_normalisation():
    images = torch.from_numpy(noise(32, 32)).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (GEOMETRY.mean, GEOMETRY.std))
    torch.testing.assert_close(Preprocess(GEOMETRY)(images), (images / 255 - mean) / std)


@pytest.mark.parametrize(("height", "width"), [(100, 60), (60, 100), (40, 40), (20, 33), (7, 300)])
def test_fit_equals_pillow_within_rounding(height, width):
    smooth = np.asarray(Image.fromarray(noise(8, 8)).resize((width, height), Image.Resampling.BICUBIC))
    fitted = Preprocess(GEOMETRY).fit(smooth.copy()).permute(1, 2, 0).numpy()
    scale = 40 / min(height, width)
    size = max(40, int(width * scale)), max(40, int(height * scale))
    left, top = (round((side - 32) / 2) for side in size)
    reference = Image.fromarray(smooth).resize(size, Image.Resampling.BILINEAR)
    reference = np.asarray(reference.crop((left, top, left + 32, top + 32)))
    assert np.abs(fitted.astype(int) - reference.astype(int)).max() <= 1


def test_an_image_of_the_right_size_is_left_alone():
    image = noise(32, 32)
    preprocess = Preprocess(Geometry(32, 32, GEOMETRY.mean, GEOMETRY.std))
    assert np.array_equal(preprocess.fit(image).permute(1, 2, 0).numpy(), image)


def test_it_survives_json_and_a_change_is_noticed():
    content = Preprocess(GEOMETRY).to_json()
    assert Preprocess.from_json(content).geometry == GEOMETRY
    with pytest.raises(EnvironmentFault, match="no longer prepared"):
        Preprocess.from_json({**content, "mean": [0.1, 0.4, 0.3]})
    with pytest.raises(EnvironmentFault, match="no longer prepared"):
        Preprocess.from_json({**content, "resize": 44})


def test_channels_convert_as_pillow_does():
    image = noise(9, 5)
    grey = np.asarray(Image.fromarray(image).convert("L"))
    assert np.abs(to_channels(image, 1)[:, :, 0].astype(int) - grey.astype(int)).max() <= 1
    assert np.array_equal(to_channels(image[:, :, :1], 3), image[:, :, [0, 0, 0]])
    with pytest.raises(RequestError, match="3 channels cannot feed a network of 4"):
        to_channels(image, 4)


def test_a_resize_smaller_than_the_image_is_refused():
    with pytest.raises(RequestError, match="nothing to crop from"):
        Geometry(32, 20, (0.5,), (0.5,))
