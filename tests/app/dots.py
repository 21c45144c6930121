"""Small grey images in two classes that are easily told apart."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_dots(folder: Path, count: int) -> Path:
    """Fills `folder` with `count` grey images of 28 pixels of each of two classes."""
    for label, name in enumerate(["dark", "light"]):
        (folder / name).mkdir()
        for number in range(count):
            pixels = np.random.default_rng((label, number)).integers(0, 120, (28, 28), np.uint8) + 120 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
