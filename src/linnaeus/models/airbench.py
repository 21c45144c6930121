"""The network of airbench94: whitened patches, three groups of two convolutions, a global maximum, one linear layer.

Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, arXiv:2404.00498, section 3; the form is that of
earlier fast networks for CIFAR-10, by Page and by Balsam. It is made to learn in a few passes over small images.

Shapes: B batch, C channels, H and W height and width, P 2x2 patches, D width of the features, K classes.

What differs from the paper:
- The paper divides logits by 9, and here the features are: the same.
- The bias of the whitening learns throughout, or there is none; the paper stops it after three epochs.
- Maxima over the whole map end the network, so that it accepts other sizes; at 32 pixels they are the paper's 3x3 pool.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier

SIDE = 2
"""Pixels of a whitened patch, each way."""
EPS = 5e-4
"""Added to the variances, or whitening would blow up the directions in which patches hardly vary."""


class Whitening(nn.Module):
    """A 2x2 convolution whose filters are measured on images: the directions in which patches vary, and opposites.

    Along each direction patches then have variance 1, and no two are correlated: so no later layer has to learn that
    neighbouring pixels are alike. Opposites keep both signs through the activation (section 3.1).
    """

    weight: Tensor

    def __init__(self, in_channels: int, *, bias: bool) -> None:
        super().__init__()
        size = in_channels * SIDE**2
        self.register_buffer("weight", torch.empty(2 * size, in_channels, SIDE, SIDE))  # measured, and never learned
        self.bias = nn.Parameter(torch.empty(2 * size)) if bias else None

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, self.bias)  # (B, C, H, W) -> (B, 8 C, H - 1, W - 1)

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Sets the filters from (N, C, H, W) float images."""
        patches = images.double().unfold(2, SIDE, 1).unfold(3, SIDE, 1).permute(0, 2, 3, 1, 4, 5)
        flat = patches.reshape(-1, images.shape[1] * SIDE**2)  # (N, H - 1, W - 1, C, 2, 2) -> (P, 4 C)
        variances, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
        self._set(directions.T / (variances[:, None] + EPS).sqrt())

    @torch.no_grad()
    def reset(self) -> None:
        """Sets the filters for patches of noise, which has variance 1 in all directions, and the bias to 0."""
        size = len(self.weight) // 2
        self._set(nn.init.orthogonal_(self.weight.new_empty(size, size)))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _set(self, filters: Tensor) -> None:
        self.weight.copy_(torch.cat([filters, -filters]).view_as(self.weight))


class ShiftNorm(nn.BatchNorm2d):
    """Batch normalisation without a scale, and with statistics that follow the weights fast (section 3 and table 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))


class ConvGroup(nn.Module):
    """Two 3x3 convolutions, the first of them followed by a maximum over 2x2 pixels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = ShiftNorm(channels)
        self.act1 = nn.GELU()
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = ShiftNorm(channels)
        self.act2 = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.pool(self.conv1(x))))  # (B, C, H, W) -> (B, channels, H // 2, W // 2)
        out: Tensor = self.act2(self.norm2(self.conv2(x)))
        return out


class Airbench(Classifier):
    """The network, for images of 32x32 pixels.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels, at least 16; the network accepts other sizes than this one too.
        width: of the first group; the others have four times as much.
        whiten_bias: a learned bias in the whitening. Without one, nothing before the first group needs a gradient.
    """

    measured_images = 5000

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        width: int = 64,
        whiten_bias: bool = True,
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"Airbench got image_size={image_size}, expected at least 16: three poolings halve it")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size

        self.whiten = Whitening(in_channels, bias=whiten_bias)
        self.act = nn.GELU()
        widths = (len(self.whiten.weight), width, 4 * width, 4 * width)
        self.group1, self.group2, self.group3 = (ConvGroup(*widths[i : i + 2]) for i in range(3))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.init_weights()

    @property
    def blocks(self) -> Sequence[ConvGroup]:  # type: ignore[override]
        return [self.group1, self.group2, self.group3]

    def features(self, images: Tensor) -> Tensor:
        x = self.act(self.whiten(images))
        x = self.group3(self.group2(self.group1(x)))
        features: Tensor = x.amax((2, 3)) / 9  # (B, D, H, W) -> (B, D)
        return features

    def measure(self, images: Tensor) -> None:
        self.whiten.measure(images)

    def init_weights(self) -> None:
        """As many filters as there are inputs start as the identity, the rest and the head as PyTorch's (section 3.2).

        Batch normalisation has shift 0. The whitening is that of noise until it is measured.
        """
        for module in self.modules():
            if isinstance(module, Whitening):
                module.reset()
            elif isinstance(module, ShiftNorm):
                module.reset_running_stats()
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight[: module.in_channels])


airbench94 = Airbench
