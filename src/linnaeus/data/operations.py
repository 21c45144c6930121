"""What policies do to images: pure functions of (B, H, W, C) uint8 pixels and (B,) amounts, each giving new pixels.

They compute what torchvision.transforms.v2 computes for uint8 tensors, to one grey level: results are truncated to
whole levels, and what moves in from outside the image is zero. They use element-wise arithmetic and look-ups alone, and
so give the same pixels in any batch, in every process and on every processor. Where C is not 3 there is no colour:
`saturation` and `hue` change nothing, and `contrast` is about the mean of all values.
"""

import math

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.preprocess import LUMA

Images = NDArray[np.uint8]
Amounts = NDArray[np.float64]

_FRACTION = 16  # bits after the point of a coordinate: exact to 1/65536 pixel, for sides of up to 32,767 pixels


def brightness(images: Images, factors: Amounts) -> Images:
    """A blend with black: 0 is black, 1 the image; above 1 the bright parts saturate."""
    return _truncate(images * _to_each(factors))


def contrast(images: Images, factors: Amounts) -> Images:
    """A blend with the image's mean luma: 0 is even grey, 1 the image."""
    sums = images.sum(1, dtype=np.int64).sum(1)  # (B, C); by rows first, which is contiguous
    weights = LUMA if images.shape[3] == 3 else (1 / images.shape[3],) * images.shape[3]
    means = np.zeros(len(images))
    for channel, weight in enumerate(weights):
        means += sums[:, channel] * weight
    means /= images.shape[1] * images.shape[2]
    return _truncate(images * _to_each(factors) + _to_each(means * (1 - factors)))


def saturation(images: Images, factors: Amounts) -> Images:
    """A blend of each pixel with its luma: 0 is a grey image, 1 the image."""
    if images.shape[3] != 3:
        return images.copy()
    planes = _planes(images)
    luma = np.zeros(images.shape[:3], np.float32)
    for plane, weight in zip(planes, LUMA, strict=True):
        luma += plane * np.float32(weight)
    luma = np.floor(luma) * _to_each(1 - factors)[..., 0]
    return np.stack([_truncate(plane * _to_each(factors)[..., 0] + luma) for plane in planes], axis=3)


def hue(images: Images, turns: Amounts) -> Images:
    """Turns each pixel's hue in HSV by a share of the circle, in [-0.5, 0.5]; rounded to the nearest level."""
    if images.shape[3] != 3:
        return images.copy()
    red, green, blue = _planes(images)
    low, top = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    spread = top - low
    divisor = np.maximum(spread, 1)  # of grey pixels, which have no hue: their spread is zero, so it does not matter
    sector = np.where(green == top, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sector = np.where(red == top, (green - blue) / divisor, sector)  # [-1, 5]: 0 is red, 2 green, 4 blue
    sector += _to_each(6 * turns)[..., 0]
    sector -= 6 * np.floor(sector / 6)  # [0, 6)
    shares = np.abs(sector - 3) - 1, 2 - np.abs(sector - 2), 2 - np.abs(sector - 4)
    low += np.float32(0.5)
    return np.stack([_truncate(low + spread * np.clip(share, 0, 1)) for share in shares], axis=3)


def sharpness(images: Images, factors: Amounts) -> Images:
    """A blend with the smoothed image: 0 is smooth, 1 the image, 2 sharp. Pixels at the edge stay as they are.

    Each pixel weighs 5 of 13 in its own smoothing, and its eight neighbours 1 each, as in Pillow.
    """
    result = images.copy()
    if min(images.shape[1:3]) < 3:
        return result
    wide = images.astype(np.uint16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    middle = wide[:, 1:-1, 1:-1]
    smooth = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * middle + 6) // 13
    blend = smooth.astype(np.float32) - middle
    blend *= _to_each(1 - factors)
    blend += middle
    result[:, 1:-1, 1:-1] = _truncate(blend)
    return result


def posterize(images: Images, bits: Amounts) -> Images:
    """Keeps the upper bits of each value: how many, in [0, 8], rounded to a whole number."""
    masks = 0xFF00 >> np.rint(bits).astype(np.int64) & 0xFF
    return images & masks.astype(np.uint8)[:, None, None, None]


def solarize(images: Images, thresholds: Amounts) -> Images:
    """Inverts the values at and above a threshold, in [0, 255]."""
    inverted = images >= np.ceil(thresholds).astype(np.uint8)[:, None, None, None]
    return images ^ -inverted.view(np.uint8)  # -1 is 0xFF, which flips every bit


def autocontrast(images: Images, _: Amounts) -> Images:
    """Stretches each channel of each image to the full range; a channel of one value stays."""
    lows, tops = images.min(1).min(1), images.max(1).max(1)  # (B, C); by rows first, which is contiguous
    flat = lows == tops
    lows[flat], tops[flat] = 0, 255
    result = np.empty_like(images)
    for channel in range(images.shape[3]):
        low, top = lows[:, channel, None, None], tops[:, channel, None, None]
        result[..., channel] = (images[..., channel] - low) * np.uint16(255) // (top - low)  # at most 255 * 255
    return result


def equalize(images: Images, _: Amounts) -> Images:
    """Makes the values of each channel about equally frequent, by the rule of Pillow's `ImageOps.equalize`."""
    result = np.empty_like(images)
    for image, equalized in zip(images, result, strict=True):
        for channel in range(images.shape[3]):
            equalized[..., channel] = _equalize(np.ascontiguousarray(image[..., channel]))
    return result


def _equalize(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) -> (H, W), one channel of one image."""
    counts = np.bincount(plane.ravel(), minlength=256)
    step = int(plane.size - counts[plane.max()]) // 255
    if step == 0:
        return plane
    below = np.cumsum(counts) - counts
    table = np.minimum((below + step // 2) // step, 255).astype(np.uint8)
    found = plane.tobytes().translate(table.tobytes())  # table[plane], in half the time
    return np.frombuffer(found, np.uint8).reshape(plane.shape)


def translate_x(images: Images, pixels: Amounts) -> Images:
    """Moves each image right, or left where negative; fractions are cut off."""
    moved, width = np.zeros_like(images), images.shape[2]
    for image, result, shift in zip(images, moved, pixels.astype(np.int64).tolist(), strict=True):
        result[:, max(0, shift) : max(0, width + shift)] = image[:, max(0, -shift) : max(0, width - shift)]
    return moved


def translate_y(images: Images, pixels: Amounts) -> Images:
    """Moves each image down, or up where negative; fractions are cut off."""
    moved, height = np.zeros_like(images), images.shape[1]
    for image, result, shift in zip(images, moved, pixels.astype(np.int64).tolist(), strict=True):
        result[max(0, shift) : max(0, height + shift)] = image[max(0, -shift) : max(0, height - shift)]
    return moved


def shear_x(images: Images, slopes: Amounts) -> Images:
    """Takes each row from further right than the row above it, by the slope in pixels; the top edge stays."""
    zeros = np.zeros_like(slopes)
    return _affine(images, (zeros + 1, slopes, zeros), (zeros, zeros + 1, zeros))


def shear_y(images: Images, slopes: Amounts) -> Images:
    """Takes each column from further down than the column left of it, by the slope in pixels; the left edge stays."""
    zeros = np.zeros_like(slopes)
    return _affine(images, (zeros + 1, zeros, zeros), (slopes, zeros + 1, zeros))


def rotate(images: Images, degrees: Amounts) -> Images:
    """Turns each image about its centre, counter-clockwise."""
    angles = np.radians(degrees).tolist()
    cos, sin = np.array([math.cos(angle) for angle in angles]), np.array([math.sin(angle) for angle in angles])
    y, x = images.shape[1] / 2, images.shape[2] / 2  # of the centre
    return _affine(images, (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y))


def _affine(images: Images, to_x: tuple[Amounts, ...], to_y: tuple[Amounts, ...]) -> Images:
    """Each pixel from the nearest source: at to_x[0] * x + to_x[1] * y + to_x[2], with y alike, from the top left edge.

    Coordinates are integers with 16 bits after the point: a point half-way between two pixels always takes the same.
    """
    count, height, width, channels = images.shape
    columns, rows = np.arange(width, dtype=np.float64) + 0.5, np.arange(height, dtype=np.float64) + 0.5
    x, y = (
        (_fixed(by_x[:, None] * columns + shift[:, None])[:, None] + _fixed(by_y[:, None] * rows)[..., None])
        >> _FRACTION
        for by_x, by_y, shift in (to_x, to_y)
    )  # (B, W)[:, None] + (B, H)[..., None] -> (B, H, W)
    # As unsigned numbers the negative ones are large, so that one comparison finds both sides. One more pixel, a zero,
    # behind the last stands for all that is outside.
    inside = (x.view(np.uint32) < width) & (y.view(np.uint32) < height)
    first = np.arange(count, dtype=np.int32)[:, None, None] * (height * width)  # pixel of each image
    source = np.where(inside, first + y * width + x, count * height * width)
    pixels = np.zeros((count * height * width + 1, channels), np.uint8)
    pixels[:-1] = images.reshape(-1, channels)
    moved: Images = pixels.take(source, axis=0)
    return moved


def _fixed(values: NDArray[np.float64]) -> NDArray[np.int32]:
    fixed: NDArray[np.int32] = np.rint(values * (1 << _FRACTION)).astype(np.int32)
    return fixed


def _to_each(amounts: Amounts) -> NDArray[np.float32]:
    """(B,) -> (B, 1, 1, 1), one number for all values of an image."""
    return amounts.astype(np.float32)[:, None, None, None]


def _truncate(values: NDArray[np.float32]) -> Images:
    levels: Images = np.clip(values, 0, 255).astype(np.uint8)
    return levels


def _planes(images: Images) -> list[NDArray[np.float32]]:
    """(B, H, W, C) uint8 -> C times (B, H, W) float32."""
    return [images[..., channel].astype(np.float32) for channel in range(images.shape[3])]
