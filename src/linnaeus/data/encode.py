"""Pixels into image files: what `decode` undoes."""

import io

import numpy as np
from PIL import Image

from linnaeus.data.decode import Pixels


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 1 or 3) uint8 -> a PNG file, which holds the pixels exactly."""
    file = io.BytesIO()
    _image_of(pixels).save(file, "PNG")
    return file.getvalue()


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """(H, W, 1 or 3) uint8 -> a JPEG file; `quality`: 1 to 100, as libjpeg counts it."""
    file = io.BytesIO()
    _image_of(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def shrink(pixels: Pixels, max_side: int) -> Pixels:
    """The same picture with no side longer than `max_side`, antialiased; as it is where no side is."""
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(_image_of(pixels).resize(size, Image.Resampling.LANCZOS))
    return small[:, :, None] if small.ndim == 2 else small


def _image_of(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
