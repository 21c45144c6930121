"""Images that lie decoded in memory."""

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels
from linnaeus.data.sources.base import Labels


class ArraySource:
    """Images that are already decoded, in one array."""

    def __init__(self, images: NDArray[np.uint8], labels: Labels) -> None:
        """`images`: (N, H, W, C) uint8."""
        self.images = images
        self.labels = labels

    def name(self, index: int) -> str:
        """The image's class and number, as `zebra-00042`."""
        return f"{self.labels.text(index)}-{index:05d}"

    def names(self, start: int, stop: int) -> list[str]:
        """The names of the images from `start` on, before `stop`."""
        return [self.name(index) for index in range(start, stop)]

    def stamps(self) -> None:
        """None: the images are decoded already, and looking at them again is quick."""

    def read(self, index: int) -> bytes:
        """The pixels' bytes."""
        return bytes(self.images[index].data)

    def decode(self, content: bytes) -> Pixels:
        """Gives the bytes their shape back."""
        return np.frombuffer(bytearray(content), np.uint8).reshape(self.images.shape[1:])  # writable, as torch wants
