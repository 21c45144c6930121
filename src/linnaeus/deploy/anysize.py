"""Images of any size inside an artefact: the resize and the crop of evaluation, as two products of matrices.

The filter is written out, since a runtime's own need not round as PyTorch's, which prepares images everywhere else: a
row of a matrix holds the weights with which an output row (or column) takes in the input's. As in PyTorch's resize of
bytes, weights are rounded to 15 bits, columns come first, and what they give is rounded to bytes. All of it is integers
that a float32 holds exactly, until an image is shrunk more than about twice: then a sum may be rounded the other way,
and very few pixels are one grey level off.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from linnaeus.core.preprocess import Geometry

LONGEST = 65_535
"""Pixels of a side at most."""
BITS = 22
"""The most that PyTorch shifts weights by."""


class Fit(nn.Module):
    """(1, H, W, C) uint8, one upright image -> (1, S, S, C) uint8, as `Preprocess.fit` makes it.

    Everything is computed by tensors, so that capture leaves H and W open.
    """

    powers: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("powers", 2.0 ** torch.arange(1, BITS + 1, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """(1, H, W, C) uint8 -> (1, S, S, C) uint8."""
        height, width = (torch.ones((), dtype=torch.float64) * side for side in images.shape[1:3])
        scale = self.geometry.resize / torch.minimum(height, width)
        down, down_one = self._weights(height, scale, images.shape[1])
        across, across_one = self._weights(width, scale, images.shape[2])
        pixels = images[0].permute(2, 0, 1).float()  # (H, W, C) -> (C, H, W)
        narrow = _rounded(pixels @ across.T, across_one)  # (C, H, S)
        return _rounded(down @ narrow, down_one).to(torch.uint8).permute(1, 2, 0)[None]  # (C, S, S) -> (1, S, S, C)

    def _weights(self, length: Tensor, scale: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What each pixel of the crop takes of each of the `count` pixels of a side.

        Returns:
            (S, count) float32 integers, and what stands for 1, a power of two.
        """
        size = self.geometry.image_size
        target = (length * scale).floor().clamp(min=self.geometry.resize)
        crop = torch.arange(size, dtype=torch.float64) + ((target - size) / 2).round()
        # Weights are largest at the edge, and the largest of all says how many bits they get: the edge comes along.
        index = torch.cat([crop, torch.zeros(1, dtype=torch.float64), target[None] - 1])[:, None]
        taps = torch.arange(count, dtype=torch.float64)
        # Distance of two pixels' centres in units of the filter, as a fraction of whole numbers, which are exact.
        away = (((2 * taps + 1) * target - (2 * index + 1) * length) / (2 * torch.maximum(length, target))).abs()
        weights = self._filter(away)
        weights = weights / weights.sum(1, keepdim=True)
        fits = (weights.max() * self.powers + 0.5).floor() < 2**15
        one = torch.where(fits, self.powers, torch.ones_like(self.powers)).max()
        weights = weights[:size] * one
        rounded = torch.where(weights < 0, (weights - 0.5).ceil(), (weights + 0.5).floor())  # halves away from zero
        return rounded.float(), one.float()

    def _filter(self, away: Tensor) -> Tensor:
        """Triangle, or Keys' cubic with a = -0.5, as Pillow and PyTorch have them."""
        if self.geometry.interpolation == "bilinear":
            return (1 - away).clamp(min=0)
        near = (1.5 * away - 2.5) * away * away + 1
        far = (((away - 5) * away + 8) * away - 4) * -0.5
        return torch.where(away < 1, near, torch.where(away < 2, far, torch.zeros_like(away)))


def _rounded(sums: Tensor, one: Tensor) -> Tensor:
    """Sums in units of 1 / `one` -> the nearest bytes, as float32."""
    return ((sums + one / 2) / one).floor().clamp(0, 255)


def capture_any(network: nn.Module, channels: int) -> ExportedProgram:
    """The operations of a module that takes one (1, H, W, C) uint8 image, with H and W open."""
    example = torch.randint(0, 256, (1, 53, 61, channels), dtype=torch.uint8)
    sides = {1: Dim("height", min=1, max=LONGEST), 2: Dim("width", min=1, max=LONGEST)}
    with torch.no_grad():
        return export(network, (example,), dynamic_shapes=(sides,))
