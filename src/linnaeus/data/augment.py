"""Augmentations as pure functions of images and of uniform numbers in [0, 1), one row of numbers an image.

The numbers come from `core/seed.draws`, so an image's augmentation depends on the seed, the epoch and its position in
the global order, and on nothing else.
"""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.data.decode import Pixels

# Which number of a row decides what. Fixed places let augmentations be combined without shifting each other's draws.
_FLIP, _TOP, _LEFT = 0, 1, 2
_ATTEMPTS = slice(4, 24)  # ten pairs (area, ratio)

Draws = NDArray[np.float64]


def pad_crop(images: NDArray[np.uint8], draws: Draws, *, padding: int) -> NDArray[np.uint8]:
    """Shifts each image by up to `padding` pixels each way, with zeros moving in (ResNet paper, section 4.2).

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).

    Returns:
        (B, H, W, C) uint8.
    """
    count, height, width, channels = images.shape
    padded = np.zeros((count, height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = images
    shifts = (draws[:, [_TOP, _LEFT]] * (2 * padding + 1)).astype(np.int64)
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # (B, 2p+1, 2p+1, C, H, W), a view
    crops = windows[np.arange(count), shifts[:, 0], shifts[:, 1]]  # (B, C, H, W), strided as (B, H, W, C)
    return np.ascontiguousarray(crops.transpose(0, 2, 3, 1))


def flip(images: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
    """Mirrors each (B, H, W, C) image left to right with probability one half."""
    mirrored = draws[:, _FLIP] < 0.5
    images = images.copy()
    images[mirrored] = images[mirrored, :, ::-1]
    return images


def random_resized_crop(
    image: Pixels,
    draws: Draws,
    *,
    size: int,
    min_area: float,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """A random part of an image, resized (Szegedy et al., "Going deeper with convolutions", section 6).

    Args:
        image: (H, W, C) uint8.
        draws: (DRAWS,) for this image.
        size: height and width of the result.
        min_area: smallest part, as a share of the image's area; the largest is 1. The ratio is between 3:4 and 4:3.
        interpolation: antialiased filter.

    Returns:
        (C, size, size) uint8.
    """
    top, left, height, width = crop_box(image.shape[0], image.shape[1], draws, min_area=min_area)
    part = torch.from_numpy(image[top : top + height, left : left + width]).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    return F.interpolate(part[None], (size, size), mode=interpolation, antialias=True)[0]


def crop_box(height: int, width: int, draws: Draws, *, min_area: float) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop, distributed as torchvision's `RandomResizedCrop`.

    Ten attempts to fit a box of random area and ratio, then the largest centred box whose ratio is allowed.
    """
    for area_draw, ratio_draw in draws[_ATTEMPTS].reshape(-1, 2).tolist():
        area = height * width * (min_area + (1 - min_area) * area_draw)
        ratio = math.exp(math.log(4 / 3) * (2 * ratio_draw - 1))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(draws[_TOP] * (height - box_height + 1))
            left = int(draws[_LEFT] * (width - box_width + 1))
            return top, left, box_height, box_width
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    box_width, box_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
