"""One type for every batch, between loader and loss.

Legend, for the whole project: B batch, C channels, H and W height and width, N tokens, D width of the features,
K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images with their targets, on one device.

    Attributes:
        images: (B, C, H, W) uint8.
        targets: (B,) int64 for one class an image; (B, K) uint8, 1 for each class that an image has, where it may have
            several; or (B, K) float for soft targets.
        valid: (B,) bool; False marks padding, which no sum may count.
        index: (B,) int64, the position of each image in its source: it leads back to the file.
    """

    images: Tensor
    targets: Tensor
    valid: Tensor
    index: Tensor

    @staticmethod
    def of(images: Tensor, targets: Tensor, index: Tensor) -> "Batch":
        """A batch without padding."""
        return Batch(images, targets, torch.ones(len(images), dtype=torch.bool), index)

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device, copied without blocking where the memory is pinned."""
        if self.images.device == device:
            return self
        return Batch(*(t.to(device, non_blocking=True) for t in self._tensors()))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; `DataLoader(pin_memory=True)` calls this."""
        return Batch(*(t.pin_memory() for t in self._tensors()))

    def pad(self, size: int) -> "Batch":
        """Repeats the last image, marked as not valid, up to `size` images, so that every batch has one shape."""
        missing = size - len(self)
        if missing <= 0:
            return self
        rows = torch.cat([torch.arange(len(self)), torch.full((missing,), len(self) - 1)])
        padded = Batch(*(t[rows] for t in self._tensors()))
        padded.valid[len(self) :] = False
        return padded

    def first(self, number: int) -> "Batch":
        """The first images, all of them where there are fewer."""
        return Batch(*(t[:number] for t in self._tensors()))

    def join(self, other: "Batch") -> "Batch":
        """The images of both."""
        return Batch(*(torch.cat(pair) for pair in zip(self._tensors(), other._tensors(), strict=True)))

    def split(self, parts: int, *, together: int = 1) -> Iterator["Batch"]:
        """At most `parts` micro-batches of nearly equal size, in order; never an empty one.

        Args:
            parts: how many.
            together: groups of so many images, from the first, are not cut.
        """
        if parts == 1:
            return iter([self])
        groups = torch.arange(0, len(self), together)
        cuts = [int(chunk[0]) for chunk in groups.tensor_split(min(parts, len(groups)))][1:]
        chunks = (t.tensor_split(cuts) for t in self._tensors())
        return (Batch(*tensors) for tensors in zip(*chunks, strict=True))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.images, self.targets, self.valid, self.index


class Loader(Protocol):
    """Batches of a fixed set of images, in an order that depends on nothing but the seed and the epoch.

    Attributes:
        num_images: images in one epoch.
        num_batches: batches in one epoch.
    """

    num_images: int
    num_batches: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from number `start` on, the same whether or not earlier ones were asked for."""
