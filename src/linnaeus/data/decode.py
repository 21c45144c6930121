"""The one decoder: bytes of an image file in, upright uint8 pixels or a clean reason out.

Policy, for what is not plain 8-bit grey or RGB:

| file | pixels |
|---|---|
| EXIF orientation | applied |
| 1-bit, 8-bit grey | one channel |
| palette, YCbCr, HSV, LAB, CMYK | converted to RGB |
| alpha or a transparent colour | composited over white |
| 16-bit grey | the upper 8 bits: linear over the full range, never clipped |
| 32-bit integers | as 16-bit where they fit in 16 bits, refused otherwise |
| floating point | refused: the range is not stated in the file |
| animation, several frames | the first frame |
| more than 178,956,970 pixels (Pillow's limit) | refused as a decompression bomb |
| truncated | refused; a partly grey picture is not the picture |
"""

import io
import struct
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from linnaeus.core.errors import DataError, RequestError

EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".jpf",
        ".jpx",
        ".avif",
    ]
)
"""File names that are taken for images when a folder is listed; the content alone decides how a file is decoded."""

Pixels = NDArray[np.uint8]
ImageLike = str | PathLike[str] | Image.Image | Pixels
"""What the Python interface takes for an image: a path, a PIL image, or an (H, W, C) uint8 array."""

_GREY = ("1", "L")
# What Pillow's plugins were seen to raise on damaged files, beside UnidentifiedImageError.
_PILLOW_FAILS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    AttributeError,
)
_PILLOW_FAILS_TOO = (
    struct.error,
    zlib.error,
    MemoryError,
    ZeroDivisionError,
    NotImplementedError,
    RuntimeError,
)


_ORIENTATION, _MODEL, _BITS_PER_SAMPLE = 0x0112, 0x0110, 258  # tags of EXIF and TIFF
_BITS = {"1": 1, "I": 32, "F": 32}  # bits a channel by the start of Pillow's mode, where it is not 8


class UnreadableImage(DataError):
    """An image that cannot be used; the message is the reason, fit for a table row."""


@dataclass(frozen=True)
class FileFacts:
    """What an image file says of itself; nothing here needs its pixels.

    Attributes:
        format: Pillow's name of it: "JPEG", "PNG", "MPO" (a JPEG with further pictures inside).
        mode: Pillow's name of how the pixels are stored: "RGB", "L", "P", "CMYK", "I;16".
        bits: bits a channel in the file, before `decode` makes 8 of them.
        transparent: whether there is an alpha channel or a transparent colour.
        frames: pictures in the file; 1 for MPO, whose further pictures are previews and depths of the first.
        orientation: EXIF's 1 to 8; 1 is upright, and what `decode` leaves alone.
        camera: EXIF's model, or "".
    """

    format: str
    mode: str
    bits: int
    transparent: bool
    frames: int
    orientation: int
    camera: str


def decode(data: bytes) -> Pixels:
    """Decodes an image file by the policy above.

    Args:
        data: the whole file.

    Returns:
        (H, W, 1) for grey and (H, W, 3) for colour, uint8, upright.

    Raises:
        UnreadableImage: with the reason, whatever is wrong with the file.
    """
    if not data:
        raise UnreadableImage("empty file")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return pixels_of(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image, or a damaged header") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("too many pixels: taken for a decompression bomb") from None
    except (*_PILLOW_FAILS, *_PILLOW_FAILS_TOO) as error:
        raise UnreadableImage(_reason(error)) from None


def load_image(image: ImageLike) -> Pixels:
    """As `decode`, for a path, a PIL image or an array.

    Raises:
        UnreadableImage: if the file or the PIL image cannot be used.
        OSError: if the file cannot be read.
        RequestError: if an array is not (H, W, C) uint8.
    """
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if not isinstance(image, np.ndarray):
        return decode(Path(image).read_bytes())
    if image.ndim != 3 or image.dtype != np.uint8:
        raise RequestError(f"an array of shape {image.shape} and type {image.dtype}: expected (H, W, C) uint8")
    return image


def inspect(data: bytes) -> FileFacts | None:
    """What an image file says of itself, from its headers alone; None if it is not an image.

    Meant for files that `decode` has taken. A damaged header of a file that does not decode reads as None too.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG" and b"eXIf" in data and "exif" not in image.info:
                image.load()  # the only way to tags that stand behind the pixels
            # The method of the base class: PNG's own decodes all pixels to look for such tags.
            tags = Image.Image.getexif(image)
            orientation = tags.get(_ORIENTATION, 1)
            return FileFacts(
                format=str(image.format),
                mode=image.mode,
                bits=_bits(image, data),
                transparent=image.has_transparency_data,
                frames=1 if image.format == "MPO" else int(getattr(image, "n_frames", 1)),
                orientation=orientation if orientation in range(1, 9) else 1,
                camera=" ".join(str(tags.get(_MODEL, "")).replace("\0", " ").split()),
            )
    except (UnidentifiedImageError, Image.DecompressionBombError, *_PILLOW_FAILS, *_PILLOW_FAILS_TOO):
        return None


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits a channel in the file. Pillow's mode does not tell: it reads colour of 16 bits as 8."""
    if image.format == "PNG":
        return data[24]  # IHDR is the first chunk, and its ninth byte is the depth
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    return 16 if ";16" in image.mode else _BITS.get(image.mode[:1], 8)


def thumbnail(pixels: Pixels, size: int) -> Pixels:
    """(H, W, 1 or 3) uint8 -> (size, size, 1 or 3), whatever the shape: each value the average of what it covers."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX))
    return small[:, :, None] if small.ndim == 2 else small


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower():
        return f"truncated ({text})"
    return f"damaged ({text})"


def pixels_of(image: Image.Image) -> Pixels:
    """An open PIL image by the same policy."""
    upright = ImageOps.exif_transpose(image)
    eight_bit = _to_eight_bit(upright)
    array = np.array(eight_bit, dtype=np.uint8)  # a copy of its own: torch takes writable memory only
    return array[:, :, None] if array.ndim == 2 else array


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """An image of mode L or RGB."""
    if image.mode.startswith("I"):  # before transparency: Pillow clips 16-bit values when it makes them RGBA
        return _from_sixteen_bit(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    if image.mode in _GREY:
        return image.convert("L")
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, whose range the file does not state: convert to 8 or 16 bits")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # None only when told to work in place
        return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UnreadableImage(f"32-bit pixels from {values.min()} to {values.max()}: convert to 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
