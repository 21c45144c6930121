"""The contract of every network. The letters of shapes are explained in `core/batch.py`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """A network from normalised images to logits, with named insides.

    Whatever trains, explains, shards or exports a network relies on this class alone and knows no family.

    Attributes:
        num_classes: K, the number of logits.
        in_channels: C, the number of channels of an image.
        image_size: height and width, in pixels, that the network is built for.
        head: the last layer, (B, D) -> (B, K).
        blocks: the repeated blocks in the order of the forward pass: the units of sharding and checkpointing. A module
            list where the field's parameter names have one called so, else a property.
        measured_images: how many training images `measure` is to be shown before the first step; 0 for none.
    """

    num_classes: int
    in_channels: int
    image_size: int
    head: nn.Module
    blocks: Sequence[nn.Module] | nn.ModuleList
    measured_images: int = 0

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float, normalised -> (B, D) float: what `head` classifies."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float, normalised -> (B, K) logits."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def measure(self, images: Tensor) -> None:
        """Sets what the network takes from training images before it learns; most networks take nothing.

        Args:
            images: (N, C, H, W) float, normalised.
        """
