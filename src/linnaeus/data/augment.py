"""Augmentations as pure functions of images and of uniform numbers in [0, 1), one row of numbers an image.

The numbers come from `core/seed.draws`, so an image's augmentation depends on the seed, the epoch and its position in
the global order, and on nothing else. Functions of whole batches treat each image by its own row: an image comes out
the same in any batch, and in a batch of one.
"""

import math
from collections.abc import Callable, Sequence
from hashlib import shake_128
from typing import Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

# Which number of a row decides what. Fixed places let augmentations be combined without shifting each other's draws.
FLIP, TOP, LEFT, NOISE = 0, 1, 2, 3
CROP = slice(4, 24)  # ten attempts (area, ratio)
JITTER = slice(24, 29)  # the order; brightness, contrast, saturation, hue
CUTOUT = slice(29, 31)  # row and column of the centre
POLICY = slice(32, 47)  # five operations (which, how much, which sign)
ERASE = slice(48, 51)  # whether, top, left
ERASE_BOX = slice(52, 64)  # six attempts (area, ratio)

Draws = NDArray[np.float64]
AugmentBatch = Callable[[NDArray[np.uint8], Draws], NDArray[np.uint8]]
"""((B, H, W, C) uint8, (B, DRAWS)) -> (B, H, W, C) uint8."""


def in_turn(images: NDArray[np.uint8], draws: Draws, *, steps: Sequence[AugmentBatch]) -> NDArray[np.uint8]:
    """One augmentation after the other, all with the same rows of numbers.

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        steps: each at most once, for the same numbers would repeat the same draw.
    """
    for step in steps:
        images = step(images, draws)
    return images


def pad_crop(
    images: NDArray[np.uint8], draws: Draws, *, padding: int, mode: Literal["zeros", "reflect"] = "zeros"
) -> NDArray[np.uint8]:
    """Shifts each image by up to `padding` pixels each way (ResNet paper, section 4.2).

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        padding: less than H and W.
        mode: what moves in: zeros, or the image mirrored at the middle of its outermost pixels.

    Returns:
        (B, H, W, C) uint8.
    """
    count, height, width, channels = images.shape
    if mode == "zeros":
        padded = np.zeros((count, height + 2 * padding, width + 2 * padding, channels), np.uint8)
        padded[:, padding : padding + height, padding : padding + width] = images
    else:
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    shifts = (draws[:, [TOP, LEFT]] * (2 * padding + 1)).astype(np.int64)
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # (B, 2p+1, 2p+1, C, H, W), a view
    crops = windows[np.arange(count), shifts[:, 0], shifts[:, 1]]  # (B, C, H, W), strided as (B, H, W, C)
    return np.ascontiguousarray(crops.transpose(0, 2, 3, 1))


def flip(images: NDArray[np.uint8], draws: Draws) -> NDArray[np.uint8]:
    """Mirrors each (B, H, W, C) image left to right with probability one half."""
    mirrored = draws[:, FLIP] < 0.5
    if not mirrored.any():
        return images
    if mirrored.all():
        return _reversed(images)
    images = images.copy()
    images[mirrored] = _reversed(images[mirrored])
    return images


def _reversed(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # By torch: numpy reverses pixels of three bytes one byte at a time, and takes half as long as to decode a photo.
    flipped: NDArray[np.uint8] = torch.from_numpy(images).flip(2).numpy()
    return flipped


def alternate_flips(draws: Draws, first: NDArray[np.float64], *, epoch: int) -> Draws:
    """Lets `flip` mirror an image in every other epoch, rather than by chance in each (Jordan 2024, "94% on CIFAR-10").

    Two epochs in a row then show every image both ways, where chance shows half of them twice the same way.

    Args:
        draws: (B, DRAWS), of positions in this epoch's order.
        first: (B,), of the images themselves and the same in all epochs: it decides epoch 0.
        epoch: from 0.

    Returns:
        (B, DRAWS), the numbers of the flip replaced.
    """
    draws = draws.copy()
    opposite = np.where(first < 0.5, first + 0.5, first - 0.5)  # across one half, where `flip` decides
    draws[:, FLIP] = opposite if epoch % 2 else first
    return draws


def repeat(order: NDArray[np.int64], *, repeats: int) -> NDArray[np.int64]:
    """Repeated augmentation: an epoch of as many positions with fewer images, each at `repeats` positions.

    The copies differ in their draws, which belong to positions. They stand near each other, to meet in one batch
    (Hoffer et al. 2020, "Augment your batch"), but never side by side, for mixing pairs neighbours: a b a b a b c d ...

    Args:
        order: (N,), a permutation of the images: the global order of an epoch without repetition.
        repeats: copies of an image; 1 returns the order as it is.

    Returns:
        (N,), of the first N / repeats images of the order.
    """
    count = len(order)
    paired = min(2 * -(-count // (2 * repeats)), count // 2 * 2)  # images enough for all positions, in whole pairs
    pairs = np.repeat(order[:paired].reshape(-1, 1, 2), repeats, axis=1)  # (P, 2) -> (P, repeats, 2)
    return np.concatenate([pairs.ravel(), order[paired:]])[:count]  # an odd image is left over where repeats is 1


def cutout(images: NDArray[np.uint8], draws: Draws, *, side: int, fill: Sequence[int]) -> NDArray[np.uint8]:
    """Covers one square of each image (DeVries & Taylor 2017, "Improved regularization ... with cutout").

    Its centre is any pixel, so that a part of the square may lie outside.

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        side: pixels.
        fill: C levels. The mean colour becomes zero when it is normalised, as in the paper.
    """
    height, width = images.shape[1:3]
    images = images.copy()
    corners = (draws[:, CUTOUT] * (height, width)).astype(np.int64) - side // 2
    for image, (top, left) in zip(images, corners.tolist(), strict=True):
        image[max(0, top) : top + side, max(0, left) : left + side] = fill
    return images


def erase(
    images: NDArray[np.uint8],
    draws: Draws,
    *,
    probability: float,
    fill: Sequence[int] | Literal["noise"],
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> NDArray[np.uint8]:
    """Covers a rectangle inside some of the images (Zhong et al. 2017, "Random erasing data augmentation").

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        probability: with which an image is treated.
        fill: C levels, or "noise" for a level of its own for each value, all equally likely. The mean colour becomes
            zero when it is normalised.
        area: smallest and largest part, as a share of the image's area.
        ratio: smallest and largest width : height. An image where none of six boxes drawn fits stays whole.

    Returns:
        (B, H, W, C) uint8.
    """
    height, width, channels = images.shape[1:]
    images = images.copy()
    pixels = area[0] * height * width, area[1] * height * width
    for index in np.flatnonzero(draws[:, ERASE][:, 0] < probability).tolist():
        row = draws[index]
        sides = _draw_sides(row[ERASE_BOX], area=pixels, ratio=ratio, limit=(height - 1, width - 1))
        if sides is None:
            continue
        top, left = int(row[ERASE][1] * (height - sides[0] + 1)), int(row[ERASE][2] * (width - sides[1] + 1))
        colours = np.array(fill, np.uint8) if fill != "noise" else _noise(row[NOISE], (*sides, channels))
        images[index, top : top + sides[0], left : left + sides[1]] = colours
    return images


def _noise(seed: np.float64, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Evenly distributed bytes, all from one number. A hash, for a generator takes ten times as long to start."""
    return np.frombuffer(shake_128(seed.tobytes()).digest(math.prod(shape)), np.uint8).reshape(shape)


def crop_box(height: int, width: int, draws: Draws, *, min_area: float) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image, distributed as torchvision's `RandomResizedCrop`.

    For training it is brought to the network's size (Szegedy et al., "Going deeper with convolutions", section 6). Ten
    attempts to fit a box of random area and ratio, then the largest centred box whose ratio is allowed.
    """
    whole = height * width
    sides = _draw_sides(draws[CROP], area=(min_area * whole, whole), ratio=(3 / 4, 4 / 3), limit=(height, width))
    if sides is not None:
        box_height, box_width = sides
        top = int(draws[TOP] * (height - box_height + 1))
        left = int(draws[LEFT] * (width - box_width + 1))
        return top, left, box_height, box_width
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    box_width, box_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _draw_sides(
    draws: Draws, *, area: tuple[float, float], ratio: tuple[float, float], limit: tuple[int, int]
) -> tuple[int, int] | None:
    """(height, width) of the first box that fits, or None.

    Args:
        draws: pairs (area, ratio), one an attempt.
        area: pixels, drawn evenly between the two.
        ratio: width : height, drawn evenly on a logarithmic scale.
        limit: the largest height and width.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw in draws.reshape(-1, 2).tolist():
        pixels = area[0] + (area[1] - area[0]) * area_draw
        shape = math.exp(low + (high - low) * ratio_draw)
        height, width = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 0 < height <= limit[0] and 0 < width <= limit[1]:
            return height, width
    return None
