"""What a camera, a network and a careless hand do to images: corruptions in five severities.

The idea and the kinds are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", ICLR 2019, arXiv:1903.12261, section 4; the code and the numbers are our own, so results
are not comparable with ImageNet-C. Lengths are shares of the image's shorter side, so that one table serves images of
32 pixels and photos: a corruption looks the same at any size. It is meant for images of the network's size, which is
what it sees.

Every draw depends on (seed, name, index of the image), and the severities of one image share it: a worse shift goes
further in the same direction, worse noise has the same grain.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import LUMA
from linnaeus.core.seed import generator
from linnaeus.data.decode import Pixels, decode
from linnaeus.data.encode import encode_jpeg

SEVERITIES = 5
_LEAST_BLUR = 0.3  # pixels, so that the mildest blur of a small image is one
Amount = float
Change = Callable[[Pixels, Amount, np.random.Generator], Pixels]
"""(H, W, C) uint8, how much, and where draws come from -> (H, W, C) uint8, a new array."""


@dataclass(frozen=True)
class Corruption:
    """One way to spoil an image.

    Attributes:
        words: what it is, for a person.
        change: does it.
        amounts: of the five severities, from mild to strong.
        unit: what an amount is.
        needs_colour: whether it changes nothing in a grey image.
    """

    words: str
    change: Change
    amounts: tuple[Amount, Amount, Amount, Amount, Amount]
    unit: str
    needs_colour: bool = False


def corruptions(channels: int) -> dict[str, Corruption]:
    """Those that have an effect on images of so many channels, by name."""
    return {
        name: corruption for name, corruption in CORRUPTIONS.items() if channels == 3 or not corruption.needs_colour
    }


def corrupt(image: Pixels, name: str, severity: int, *, seed: int, index: int) -> Pixels:
    """Spoils an image.

    Args:
        image: (H, W, 1 or 3) uint8, of the size that the network sees.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: the same seed and index give the same image.
        index: of the image in its set.

    Returns:
        (H, W, C) uint8, a new array.

    Raises:
        RequestError: for an unknown name or severity, or one without effect on the image.
    """
    if name not in CORRUPTIONS:
        raise RequestError(f"there is no corruption '{name}': expected one of {', '.join(CORRUPTIONS)}")
    if severity not in range(1, SEVERITIES + 1):
        raise RequestError(f"severity is {severity}: expected 1 to {SEVERITIES}")
    corruption = CORRUPTIONS[name]
    if corruption.needs_colour and image.shape[2] != 3:
        raise RequestError(f"{name} changes nothing in an image of {image.shape[2]} channel(s): leave it out")
    rng = generator(seed, f"corrupt/{name}", index)
    return corruption.change(image, corruption.amounts[severity - 1], rng)


def one_severity_each(image: Pixels, turn: int, *, seed: int, index: int) -> Iterator[tuple[str, int, Pixels]]:
    """(name, severity, image) of all corruptions with an effect on it, each as `corrupt` makes it in one severity.

    Args:
        turn: number of the image among those that are corrupted: over five images, every kind has every severity once.
    """
    for number, name in enumerate(corruptions(image.shape[2])):
        severity = 1 + (turn + number) % SEVERITIES
        yield name, severity, corrupt(image, name, severity, seed=seed, index=index)


def _gaussian_noise(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    return _levels(image + 255 * amount * rng.standard_normal(image.shape))


def _shot_noise(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """Few photons: the variance of Poisson's distribution, but a normal draw, so that severities share the grain."""
    share = image / 255
    return _levels(255 * (share + np.sqrt(share / amount) * rng.standard_normal(image.shape)))


def _impulse_noise(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    draw, white = rng.random(image.shape), rng.random(image.shape) < 0.5
    return np.where(draw < amount, np.where(white, np.uint8(255), np.uint8(0)), image)


def _blur(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    """A normal distribution, by the share of it that falls on each pixel, so that less than a pixel counts too."""
    spread = math.hypot(amount * _side(image), _LEAST_BLUR) * math.sqrt(2)
    offsets = range(-math.ceil(2.2 * spread), math.ceil(2.2 * spread) + 1)
    weights = [math.erf((offset + 0.5) / spread) - math.erf((offset - 0.5) / spread) for offset in offsets]
    rows = _average(image.astype(np.float32), {(o, 0): weight for o, weight in zip(offsets, weights, strict=True)})
    return _levels(_average(rows, {(0, o): weight for o, weight in zip(offsets, weights, strict=True)}))


def _motion_blur(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """The mean along a line, of a direction of its own for each image."""
    angle, length = math.pi * rng.random(), amount * _side(image)
    shifts: dict[tuple[int, int], float] = {}
    for place in np.linspace(-length / 2, length / 2, 2 * math.ceil(length) + 1).tolist():
        down, right = place * math.sin(angle), place * math.cos(angle)
        top, left = math.floor(down), math.floor(right)
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):  # bilinear
            shifts[y, x] = shifts.get((y, x), 0.0) + (1 - abs(down - y)) * (1 - abs(right - x))
    return _levels(_average(image.astype(np.float32), shifts))


def _jpeg(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    return decode(encode_jpeg(image, round(amount)))


def _pixelate(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    height, width = image.shape[:2]
    small = max(1, round(height * amount)), max(1, round(width * amount))
    planes = F.interpolate(_planes(image), small, mode="bilinear", antialias=True)
    return _pixels(F.interpolate(planes, (height, width), mode="nearest-exact"))


def _brightness(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    return _levels(image + np.float32(255 * amount))


def _darkness(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    return _levels(image * np.float32(amount))


def _contrast(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    mean = image.mean((0, 1), dtype=np.float64).astype(np.float32)
    return _levels(mean + (image - mean) * np.float32(amount))


def _haze(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """White that lies over the image in soft clouds: between half of the amount and all of it."""
    clouds = torch.from_numpy(rng.random((1, 1, 5, 5), np.float32))
    field = F.interpolate(clouds, image.shape[:2], mode="bicubic", align_corners=True)[0, 0].clamp(0, 1).numpy()
    density = np.float32(amount) * (1 + field[:, :, None]) / 2
    return _levels(image * (1 - density) + 245 * density)


def _greyscale(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    luma = (image @ np.array(LUMA, np.float32))[:, :, None]
    return _levels(image + np.float32(amount) * (luma - image))


def _colour_cast(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """Light of another colour: warm or cold, by gains of red and blue."""
    gain = 1 + amount if rng.random() < 0.5 else 1 / (1 + amount)
    return _levels(image * np.array([gain, 1, 1 / gain], np.float32))


def _shift(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """In a direction of its own for each image; what moves in is the mirrored rest."""
    angle, length = 2 * math.pi * rng.random(), amount * _side(image)
    down, right = round(length * math.sin(angle)), round(length * math.cos(angle))
    return image.take(_mirrored(image.shape[0], down), 0).take(_mirrored(image.shape[1], right), 1)


def _rotation(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """To either side, bilinear; what turns in is mirrored."""
    angle = math.radians(amount) * (1 if rng.random() < 0.5 else -1)
    cos, sin, aspect = math.cos(angle), math.sin(angle), image.shape[0] / image.shape[1]
    matrix = torch.tensor([[[cos, -sin * aspect, 0.0], [sin / aspect, cos, 0.0]]])
    planes = _planes(image)
    grid = F.affine_grid(matrix, list(planes.shape), align_corners=False)
    return _pixels(F.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False))


def _distance(image: Pixels, amount: Amount, _: np.random.Generator) -> Pixels:
    """The whole picture smaller, in the middle; around it, its edges go on."""
    sizes = [max(1, round(side * amount)) for side in image.shape[:2]]
    small = _pixels(F.interpolate(_planes(image), sizes, mode="bilinear", antialias=True))
    margins = [(whole - side) // 2 for whole, side in zip(image.shape[:2], sizes, strict=True)]
    wide = [(m, whole - side - m) for m, whole, side in zip(margins, image.shape[:2], sizes, strict=True)]
    return np.pad(small, (*wide, (0, 0)), mode="edge")


def _occlusion(image: Pixels, amount: Amount, rng: np.random.Generator) -> Pixels:
    """A grey square somewhere, of this share of the image."""
    height, width = image.shape[:2]
    sides = [max(1, round(side * math.sqrt(amount))) for side in (height, width)]
    top, left = (round(rng.random() * (whole - side)) for whole, side in zip((height, width), sides, strict=True))
    result = image.copy()
    result[top : top + sides[0], left : left + sides[1]] = 127
    return result


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        "noise of a sensor in bad light", _gaussian_noise, (0.03, 0.06, 0.1, 0.15, 0.22), "standard deviation, of white"
    ),
    "shot_noise": Corruption("noise of few photons", _shot_noise, (250, 80, 30, 14, 7), "photons that make white"),
    "impulse_noise": Corruption(
        "dead and hot pixels", _impulse_noise, (0.005, 0.015, 0.04, 0.08, 0.14), "share of the values"
    ),
    "blur": Corruption("out of focus", _blur, (0.005, 0.008, 0.012, 0.018, 0.026), "standard deviation, of the side"),
    "motion_blur": Corruption("a moving camera", _motion_blur, (0.015, 0.025, 0.04, 0.06, 0.09), "length, of the side"),
    "jpeg": Corruption("strong compression", _jpeg, (60, 40, 25, 14, 8), "quality"),
    "pixelate": Corruption("few pixels, enlarged", _pixelate, (0.75, 0.6, 0.47, 0.36, 0.26), "resolution that is left"),
    "brightness": Corruption("overexposed", _brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added, of white"),
    "darkness": Corruption("underexposed", _darkness, (0.7, 0.5, 0.35, 0.22, 0.12), "light that is left"),
    "contrast": Corruption("low contrast", _contrast, (0.65, 0.45, 0.3, 0.2, 0.12), "contrast that is left"),
    "haze": Corruption("fog or a dirty lens", _haze, (0.35, 0.5, 0.65, 0.78, 0.88), "white where it is densest"),
    "greyscale": Corruption("faded colours", _greyscale, (0.2, 0.4, 0.6, 0.8, 1.0), "colour that is lost", True),
    "colour_cast": Corruption("light of another colour", _colour_cast, (0.1, 0.2, 0.35, 0.5, 0.7), "gain", True),
    "shift": Corruption("off centre", _shift, (0.05, 0.1, 0.16, 0.23, 0.3), "of the side"),
    "rotation": Corruption("turned", _rotation, (5, 10, 20, 35, 50), "degrees"),
    "distance": Corruption("smaller in the picture", _distance, (0.9, 0.8, 0.7, 0.58, 0.45), "size that is left"),
    "occlusion": Corruption("partly covered", _occlusion, (0.03, 0.07, 0.14, 0.24, 0.38), "share of the image"),
}


def _average(image: NDArray[np.float32], shifts: Mapping[tuple[int, int], float]) -> NDArray[np.float32]:
    """The mean of copies moved (down, right), by their weights; the edges are mirrored.

    Element-wise, and so the same on any machine.
    """
    reach = max(abs(by) for shift in shifts for by in shift)
    wide = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
    (height, width), whole = image.shape[:2], sum(shifts.values())
    total = np.zeros_like(image)
    for (down, right), weight in shifts.items():
        top, left = reach - down, reach - right
        total += wide[top : top + height, left : left + width] * np.float32(weight / whole)
    return total


def _mirrored(length: int, by: int) -> NDArray[np.int64]:
    """(length,) where each pixel of an axis comes from, if all move by so many pixels between mirrors."""
    source = (np.arange(length) - by) % (2 * length)
    return np.where(source < length, source, 2 * length - 1 - source)


def _side(image: Pixels) -> int:
    return int(min(image.shape[:2]))


def _planes(image: Pixels) -> torch.Tensor:
    """(H, W, C) uint8 -> (1, C, H, W) float32."""
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]


def _pixels(planes: torch.Tensor) -> Pixels:
    """(1, C, H, W) float32 -> (H, W, C) uint8."""
    return _levels(planes[0].permute(1, 2, 0).numpy())


def _levels(values: NDArray[Any]) -> Pixels:
    levels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels
