"""What every way of running a classifier offers, be it a network in memory or an exported artefact."""

from typing import Literal, Protocol

from torch import Tensor

from linnaeus.core.preprocess import Preprocess

Task = Literal["single", "multi"]
"""Whether an image has exactly one class, or any number of them."""


class Runtime(Protocol):
    """Prepared images in, calibrated probabilities out."""

    @property
    def task(self) -> Task:
        """Whether the probabilities are of classes that exclude each other."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes, in the order of the probabilities."""

    @property
    def preprocess(self) -> Preprocess:
        """The geometry that turns a decoded image into what `probabilities` takes."""

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, as `preprocess.fit` makes them -> (B, K) float32 in [0, 1] on the CPU.

        For the task "single" rows sum to 1.
        """
