"""Fast decoding and resizing, for training alone: evaluation and serving use `decode.py` and `Preprocess` only.

Training sees images of bounded size, so that they can be kept decoded (`cache.py`), and takes its crops from those.
What saves time, and what it changes:

- With `linnaeus[fast-data]`, JPEG is decoded by simplejpeg. Like Pillow it wraps libjpeg-turbo, with the same settings,
  and gives the same pixels: of 3,623 photos all were equal.
- A JPEG that is far larger than the bound is decoded at a half, a quarter or an eighth of its size. It stays at least
  `MARGIN` times as large as the bound, and an antialiased resize does the rest. At exactly that margin, pixels differ
  from those of full decoding and the same resize by 1.0 of 255 on average, by 3.2 in the worst image and by 34 in the
  worst pixel (396 photos, reduced by 2).
- With `linnaeus[fast-data]`, a crop that is enlarged, or reduced by at most `SLIGHT`, is resized by OpenCV without
  antialiasing, in half of the time. Pixels differ by 1.0 of 255 on average, by 6.4 in the worst image and by 93 in the
  worst pixel (396 crops of photos to 224 pixels).

Whatever is not a plain JPEG, and whatever surprises (CMYK, a truncated file, a warning of the library), goes to the
reference decoder, which decodes it or refuses it with the reason.
"""

import functools
import importlib.util
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Interpolation
from linnaeus.data.decode import Pixels, decode

MARGIN = 1.5
"""How many times as large as the bound an image is that was decoded at a reduced scale, each way."""
SLIGHT = 2.0
"""Up to this factor a crop is reduced without antialiasing, where OpenCV does it: it still looks at every pixel."""
KEEP = 1.25
"""An image whose shorter side is up to this many times the bound is left as it is: a resize would save little."""

Box = tuple[int, int, int, int]
"""(top, left, height, width), pixels."""
DecoderName = Literal["pillow", "fast"]

_REDUCTIONS = (8, 4, 2)
# Reasons to leave a file to the reference decoder, which says what is wrong with it.
_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
_SURPRISES = (*_DAMAGE, struct.error, RuntimeError, MemoryError, Image.DecompressionBombError)
# How pixels that were stored with an EXIF orientation become upright: axes to mirror, and whether to swap the two then.
_TURNS: dict[int, tuple[tuple[int, ...], bool]] = {
    2: ((1,), False),
    3: ((0, 1), False),
    4: ((0,), False),
    5: ((), True),
    6: ((0,), True),
    7: ((0, 1), True),
    8: ((1,), True),
}


@dataclass(frozen=True)
class FastPath:
    """One set of libraries that makes training images of files.

    Attributes:
        name: "fast" for simplejpeg and OpenCV, or "pillow". Part of a run's configuration: a resumed run goes on as it
            began.
    """

    name: DecoderName

    def __post_init__(self) -> None:
        if self.name == "fast" and not has_extra():
            raise RequestError(
                "data.decoder=fast needs simplejpeg and OpenCV, and they are not installed: "
                "pip install 'linnaeus[fast-data]'"
            )

    def describe(self) -> str:
        """Libraries and versions, for the record: one machine with the same text makes the same pixels."""
        parts = [f"pillow {version('pillow')} (libjpeg-turbo {features.version('libjpeg_turbo')})"]
        if self.name == "fast":
            parts += [f"simplejpeg {version('simplejpeg')}", f"OpenCV {_opencv().__version__}"]
        return ", ".join([*parts, f"torch {version('torch')}"])

    def bounded(self, content: bytes, bound: int, otherwise: Callable[[bytes], Pixels] = decode) -> Pixels:
        """Decodes an image and brings its shorter side down to `bound`, or leaves it a little larger.

        By a bicubic filter: of the sharpness of crops that are taken from the result (mean difference of neighbouring
        pixels; 320 of 390 pixels, crops of 35% to 100% of the area to 224) it leaves 97%, and a bilinear one 90%.

        Args:
            content: the whole file.
            bound: pixels.
            otherwise: decodes what is no plain JPEG.

        Returns:
            (height, width, 1 or 3) uint8, of the shape that `bounded_shape` says.

        Raises:
            UnreadableImage: as `otherwise` does.
        """
        image = _open_jpeg(content)
        if image is not None:
            (width, height), turn = image.size, _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            reduction = next((r for r in _REDUCTIONS if min(height, width) >= r * MARGIN * bound), 1)
            stored = _JPEG[self.name](content, image, reduction)
            if stored is not None:
                pixels = _bring_down(stored, (height, width), reduction, bound)
                return pixels if turn is None else _turned(pixels, *turn)
        pixels = otherwise(content)
        return _bring_down(pixels, (pixels.shape[0], pixels.shape[1]), 1, bound)

    def crop(self, image: Pixels, box: Box, shape: tuple[int, int], interpolation: Interpolation) -> Pixels:
        """A part of an image at another size.

        Args:
            image: (H, W, C) uint8; may be read-only.
            box: the part.
            shape: height and width of the result.
            interpolation: filter; antialiased, but where OpenCV does a slight reduction.

        Returns:
            (*shape, C) uint8.
        """
        top, left, height, width = box
        part = image[top : top + height, left : left + width]
        is_slight = height <= SLIGHT * shape[0] and width <= SLIGHT * shape[1]
        if self.name == "pillow" or interpolation != "bilinear" or not is_slight:
            return _resize(part, shape, interpolation)
        resized: Pixels = _opencv().resize(part, shape[::-1], interpolation=1)  # INTER_LINEAR
        return resized.reshape(*shape, -1)


def best_decoder() -> DecoderName:
    """The fastest that is installed."""
    return "fast" if has_extra() else "pillow"


def has_extra() -> bool:
    """Whether the packages of `linnaeus[fast-data]` are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("simplejpeg", "cv2"))


def bound_for(size: int, min_area: float) -> int:
    """The bound for crops of at least `min_area` of an image that become `size`: no square one need be enlarged.

    For crops of 35% to 100% to 224 pixels it is 379.
    """
    return round(size / math.sqrt(min_area))


def bounded_shape(height: int, width: int, bound: int) -> tuple[int, int]:
    """(height, width) of an image whose shorter side is brought down to `bound`; unchanged up to `KEEP` times that."""
    shorter = min(height, width)
    if shorter <= bound * KEEP:
        return height, width
    return round(height * bound / shorter), round(width * bound / shorter)


def bounded_shapes(shapes: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """`bounded_shape` of many: (N, 3) heights, widths and channels -> (N, 3)."""
    rows = [(*bounded_shape(height, width, bound), channels) for height, width, channels in shapes.tolist()]
    return np.array(rows, np.int64).reshape(-1, 3)


def _bring_down(pixels: Pixels, full: tuple[int, int], reduction: int, bound: int) -> Pixels:
    """Brings an image that was decoded at 1 / `reduction` of its `full` height and width to its bounded shape."""
    shape = bounded_shape(*full, bound)
    if shape == full:
        return pixels
    if reduction == 1:
        return _resize(pixels, shape, "bicubic")
    # The last pixel of a reduced row may stand for fewer pixels than the others, and Pillow takes fractions of a pixel.
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    edges = (0, 0, full[1] / reduction, full[0] / reduction)
    return np.array(image.resize(shape[::-1], Image.Resampling.BICUBIC, box=edges)).reshape(*shape, -1)


def _turned(pixels: Pixels, mirrored: tuple[int, ...], is_sideways: bool) -> Pixels:
    upright = torch.from_numpy(pixels).flip(mirrored)  # 20 times as fast as a copy by numpy
    return (upright.transpose(0, 1).contiguous() if is_sideways else upright).numpy()


def _resize(image: Pixels, shape: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """(H, W, C) -> (*shape, C), equal to `F.interpolate(..., antialias=True)`."""
    if not (image.flags.c_contiguous and image.flags.writeable):
        image = image.copy()  # torch takes writable memory only
    # (H, W, C) -> (1, H, W, C) -> (1, C, H, W). A batch of one before the permutation, so that torch sees the memory
    # format "channels last" and takes its code for it: 0.18 ms instead of 0.28 for 224 pixels.
    images = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(images, shape, mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()  # (1, C, h, w) -> (h, w, C)


def _open_jpeg(content: bytes) -> Image.Image | None:
    """The header of a plain JPEG as Pillow reads it, so that size, orientation and refusals are the reference's."""
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG",))
        image.getexif()
    except _SURPRISES:
        return None
    return image if image.mode in ("L", "RGB") else None


def _with_simplejpeg(content: bytes, image: Image.Image, reduction: int) -> Pixels | None:
    import simplejpeg  # type: ignore[import-untyped]

    width, height = (-(-side // reduction) for side in image.size)
    colours = "GRAY" if image.mode == "L" else "RGB"
    try:
        # Strict: what libjpeg-turbo only warns of, such as a truncated file, is an error.
        pixels: Pixels = simplejpeg.decode_jpeg(content, colours, min_height=height, min_width=width, strict=True)
    except _SURPRISES:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _with_pillow(_: bytes, image: Image.Image, reduction: int) -> Pixels | None:
    width, height = (-(-side // reduction) for side in image.size)
    try:
        image.draft(None, (image.width // reduction, image.height // reduction))
        pixels = np.array(image)
    except _SURPRISES:
        return None
    return pixels.reshape(height, width, -1) if pixels.shape[:2] == (height, width) else None


_JPEG = {"fast": _with_simplejpeg, "pillow": _with_pillow}
"""(content, its open image, reduction) -> pixels as stored in the file, or None to leave it to the reference."""


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    cv2.setNumThreads(0)  # its threads would fight the workers for cores, and hang in a process that was forked
    return cv2
