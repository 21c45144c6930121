"""What every way of running a classifier offers, be it a network in memory or an exported artefact."""

from typing import Protocol

from torch import Tensor

from linnaeus.core.preprocess import Preprocess


class Runtime(Protocol):
    """Prepared images in, calibrated probabilities out."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes, in the order of the probabilities."""

    @property
    def preprocess(self) -> Preprocess:
        """The geometry that turns a decoded image into what `probabilities` takes."""

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8, as `preprocess.fit` makes them -> (B, K) float32 on the CPU, rows summing to 1."""
