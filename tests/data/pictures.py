"""Small pictures that differ from each other, as files and as bytes."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from linnaeus.data.sources import Source


def png(*seed: int) -> bytes:
    """A PNG file of 8 x 8 random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, count: int, seed: int) -> None:
    """Makes a folder with `count` pictures, `0.png` and on."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(seed, number))


def names(source: Source) -> list[str]:
    """The names of all images of a source."""
    return [source.name(index) for index in range(len(source.labels))]


def contents(source: Source) -> list[bytes]:
    """The raw contents of all images of a source."""
    return [source.read(index) for index in range(len(source.labels))]
