"""Policies: which operations change an image's colours and shape, and how much, drawn anew for each image.

As the augmentations of `augment.py`, they are pure functions of (B, H, W, C) uint8 images and (B, DRAWS) uniform
numbers. Their keywords are their options.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import permutations

import numpy as np

from linnaeus.core.errors import RequestError
from linnaeus.core.seed import DRAWS
from linnaeus.data import operations
from linnaeus.data.augment import JITTER, POLICY, AugmentBatch, Draws
from linnaeus.data.operations import Amounts, Images

TOP_LEVEL = 30
"""Levels run from 0, where most operations do nothing, to this one."""
MAX_OPS = 5
"""As many operations as a row has numbers for."""

_ORDERS = np.array(list(permutations(range(4))))  # (24, 4)


@dataclass(frozen=True)
class Range:
    """An operation and the range of its amount.

    Attributes:
        apply: ((B, H, W, C) uint8, (B,) amounts) -> (B, H, W, C) uint8.
        least, most: amounts at level 0 and at the top level; those between are evenly spaced.
        signed: whether the amount lies as often on the other side of `least`.
    """

    apply: Callable[[Images, Amounts], Images]
    least: float = 0.0
    most: float = 0.0
    signed: bool = False

    def amounts(self, levels: Amounts, signs: Amounts) -> Amounts:
        """The amounts at some levels, on the other side for signs below one half."""
        distances = (self.most - self.least) * levels / TOP_LEVEL
        return self.least + np.where((signs < 0.5) & self.signed, -distances, distances)


def _nothing(images: Images, _: Amounts) -> Images:
    return images


def _translate_x_by_share(images: Images, shares: Amounts) -> Images:
    return operations.translate_x(images, shares * images.shape[2])


def _translate_y_by_share(images: Images, shares: Amounts) -> Images:
    return operations.translate_y(images, shares * images.shape[1])


WIDE: dict[str, Range] = {
    "identity": Range(_nothing),
    "shear_x": Range(operations.shear_x, 0, 0.99, signed=True),
    "shear_y": Range(operations.shear_y, 0, 0.99, signed=True),
    "translate_x": Range(operations.translate_x, 0, 32, signed=True),
    "translate_y": Range(operations.translate_y, 0, 32, signed=True),
    "rotate": Range(operations.rotate, 0, 135, signed=True),
    "brightness": Range(operations.brightness, 1, 1.99, signed=True),
    "saturation": Range(operations.saturation, 1, 1.99, signed=True),
    "contrast": Range(operations.contrast, 1, 1.99, signed=True),
    "sharpness": Range(operations.sharpness, 1, 1.99, signed=True),
    "posterize": Range(operations.posterize, 8, 2),
    "solarize": Range(operations.solarize, 255, 0),
    "autocontrast": Range(operations.autocontrast),
    "equalize": Range(operations.equalize),
}
"""The wide space of TrivialAugment, with the amounts of torchvision's `TrivialAugmentWide`."""

RAND: dict[str, Range] = {
    "identity": Range(_nothing),
    "shear_x": Range(operations.shear_x, 0, 0.3, signed=True),
    "shear_y": Range(operations.shear_y, 0, 0.3, signed=True),
    # Of the images of 331 pixels that the ranges were made for, 150 pixels.
    "translate_x": Range(_translate_x_by_share, 0, 150 / 331, signed=True),
    "translate_y": Range(_translate_y_by_share, 0, 150 / 331, signed=True),
    "rotate": Range(operations.rotate, 0, 30, signed=True),
    "brightness": Range(operations.brightness, 1, 1.9, signed=True),
    "saturation": Range(operations.saturation, 1, 1.9, signed=True),
    "contrast": Range(operations.contrast, 1, 1.9, signed=True),
    "sharpness": Range(operations.sharpness, 1, 1.9, signed=True),
    "posterize": Range(operations.posterize, 8, 4),
    "solarize": Range(operations.solarize, 255, 0),
    "autocontrast": Range(operations.autocontrast),
    "equalize": Range(operations.equalize),
}
"""The space of RandAugment, with the amounts of torchvision's `RandAugment`."""


def trivial_augment(images: Images, draws: Draws) -> Images:
    """One operation of the wide space at one level, all equally likely (Mueller & Hutter 2021, "TrivialAugment")."""
    which, levels, signs = draws[:, POLICY][:, :3].T
    return _apply(WIDE, images, which, np.floor(levels * (TOP_LEVEL + 1)), signs)


def rand_augment(images: Images, draws: Draws, *, num_ops: int = 2, magnitude: int = 9) -> Images:
    """Several operations one after the other, all at one level (Cubuk et al. 2019, "RandAugment").

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        num_ops: in [1, 5]; each is drawn from all, so that the same may come twice.
        magnitude: the level, in [0, 30].

    Returns:
        (B, H, W, C) uint8.

    Raises:
        ValueError: for a number of operations or a magnitude outside its range.
    """
    if not 1 <= num_ops <= MAX_OPS or not 0 <= magnitude <= TOP_LEVEL:
        raise ValueError(
            f"num_ops {num_ops} and magnitude {magnitude}: expected 1 to {MAX_OPS} operations at 0 to {TOP_LEVEL}"
        )
    levels = np.full(len(images), float(magnitude))
    for number in range(num_ops):
        which, _, signs = draws[:, POLICY][:, 3 * number : 3 * number + 3].T
        images = _apply(RAND, images, which, levels, signs)
    return images


def _apply(space: Mapping[str, Range], images: Images, which: Amounts, levels: Amounts, signs: Amounts) -> Images:
    """To each image the operation that its number in [0, 1) points to; images of one operation go together."""
    entries = list(space.values())
    chosen = (which * len(space)).astype(np.int64)
    result = np.empty_like(images)
    for number in set(chosen.tolist()):
        rows, operation = np.flatnonzero(chosen == number), entries[number]
        result[rows] = operation.apply(images[rows], operation.amounts(levels[rows], signs[rows]))
    return result


def color_jitter(
    images: Images,
    draws: Draws,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.0,
) -> Images:
    """Changes brightness, contrast, saturation and hue a little, in an order drawn, as torchvision's `ColorJitter`.

    Args:
        images: (B, H, W, C) uint8.
        draws: (B, DRAWS).
        brightness, contrast, saturation: x, for factors drawn evenly from [max(0, 1 - x), 1 + x]; 0 changes nothing.
        hue: x, for turns drawn evenly from [-x, x] of the circle, at most 0.5; 0 changes nothing.

    Returns:
        (B, H, W, C) uint8.

    Raises:
        ValueError: for a negative number, or a hue above 0.5.
    """
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise ValueError(
            f"brightness {brightness}, contrast {contrast}, saturation {saturation}, hue {hue}: expected no negative "
            "number, and a hue of at most 0.5"
        )
    changes = [
        (operations.brightness, max(0.0, 1 - brightness), 1 + brightness),
        (operations.contrast, max(0.0, 1 - contrast), 1 + contrast),
        (operations.saturation, max(0.0, 1 - saturation), 1 + saturation),
        (operations.hue, -hue, hue),
    ]
    numbers = draws[:, JITTER]
    orders = _ORDERS[(numbers[:, 0] * len(_ORDERS)).astype(np.int64)]  # (B, 4)
    images = images.copy()
    for place in range(4):
        for number, (change, low, high) in enumerate(changes):
            rows = np.flatnonzero(orders[:, place] == number)
            if len(rows) and low < high:
                images[rows] = change(images[rows], low + (high - low) * numbers[rows, 1 + number])
    return images


POLICIES: dict[str, Callable[..., Images]] = {
    "jitter": color_jitter,
    "trivial": trivial_augment,
    "rand": rand_augment,
}


def make_policy(name: str, **options: float) -> AugmentBatch:
    """A policy with its options set.

    Args:
        name: a key of `POLICIES`.
        options: its keywords, such as `magnitude=12`.

    Raises:
        RequestError: for an unknown name or option, with the valid ones, or a value that the policy refuses.
    """
    if name not in POLICIES:
        close = get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(POLICIES)}"
        raise RequestError(f"there is no policy named '{name}': {hint}")
    valid = list(inspect.signature(POLICIES[name]).parameters)[2:]
    unknown = [option for option in options if option not in valid]
    if unknown:
        raise RequestError(f"{name} has no option {', '.join(unknown)}: its options are {', '.join(valid) or 'none'}")
    policy = partial(POLICIES[name], **options)
    try:
        policy(np.zeros((0, 1, 1, 3), np.uint8), np.zeros((0, DRAWS)))  # refused here rather than in a worker
    except ValueError as error:
        raise RequestError(f"{name}: {error}") from None
    return policy
