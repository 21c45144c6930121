"""What every source of images offers."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels


@dataclass(frozen=True)
class Labels:
    """What is known of N images before any of them is opened.

    Attributes:
        classes: K names, in the order of the labels.
        targets: (N,) int64, positions in `classes`.
        splits: (N,) str, "train", "val" or "test", or "" where the source does not say.
        ignored: files that were seen and not taken for images, for the record.
    """

    classes: tuple[str, ...]
    targets: NDArray[np.int64]
    splits: NDArray[np.str_]
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


class Source(Protocol):
    """N images by position. Cheap to send to a worker process; holds no open file."""

    labels: Labels

    def name(self, index: int) -> str:
        """What a person calls the image: its path relative to the source, or its number."""

    def read(self, index: int) -> bytes:
        """The raw content, whose hash tells exact copies.

        Raises:
            OSError: if it cannot be read.
        """

    def decode(self, content: bytes) -> Pixels:
        """What `read` returned -> (H, W, 1 or 3) uint8, upright.

        Raises:
            UnreadableImage: with the reason.
        """
