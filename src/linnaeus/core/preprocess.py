"""From a decoded image to the network's input: one object for training, evaluation, prediction, serving and export."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from linnaeus.core.errors import EnvironmentFault, RequestError

Interpolation = Literal["bilinear", "bicubic"]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601, as Pillow and libjpeg use)."""


@dataclass(frozen=True)
class Geometry:
    """The numbers that define a `Preprocess`; all of them are saved with the weights.

    Attributes:
        image_size: height and width of the network's input, pixels.
        resize: length of the shorter side before the centre crop, pixels, at least `image_size`.
        mean, std: one value a channel, for pixels in [0, 1].
        interpolation: antialiased filter of the resize.
    """

    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.resize < self.image_size:
            raise RequestError(
                f"resize {self.resize} is smaller than image_size {self.image_size}: nothing to crop from"
            )
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise RequestError(f"mean {self.mean} and std {self.std} need one value a channel, and each std above 0")


class Preprocess(nn.Module):
    """Two halves: `fit`, the geometry on the host, and `forward`, the normalisation on the device."""

    scale: Tensor
    shift: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (geometry.mean, geometry.std))
        # pixel * scale + shift = (pixel / 255 - mean) / std. Buffers, to follow `.to()`; not part of the weights.
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @property
    def channels(self) -> int:
        """C, the number of channels of the network's input."""
        return len(self.geometry.mean)

    def fit(self, image: NDArray[np.uint8]) -> Tensor:
        """Resizes the shorter side and crops the centre.

        Args:
            image: (H, W, 1 or 3 or C) uint8, decoded and upright.

        Returns:
            (C, image_size, image_size) uint8.
        """
        size = self.geometry.image_size
        pixels = torch.from_numpy(to_channels(image, self.channels)).permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
        height, width = pixels.shape[1:]
        pixels = self._resize(pixels, self.geometry.resize / min(height, width))
        top, left = (round((side - size) / 2) for side in pixels.shape[1:])
        return pixels[:, top : top + size, left : left + size]

    def _resize(self, pixels: Tensor, scale: float) -> Tensor:
        target = [max(self.geometry.resize, int(side * scale)) for side in pixels.shape[1:]]
        if target == list(pixels.shape[1:]):
            return pixels
        resized = F.interpolate(pixels[None], target, mode=self.geometry.interpolation, antialias=True)
        return resized[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, C, H, W) float32, normalised; the memory format is kept."""
        return images.to(self.scale.dtype) * self.scale + self.shift

    def fingerprint(self) -> list[float]:
        """What both halves make of a fixed noise image: 48 values, to be stored and compared at every load."""
        noise = np.random.Generator(np.random.Philox(key=2026)).integers(0, 256, (53, 37, self.channels), np.uint8)
        output = self(self.fit(noise)[None].to(self.scale.device)).flatten().cpu()
        picks = torch.linspace(0, len(output) - 1, 48).long()
        return [round(value, 6) for value in output[picks].tolist()]

    def to_json(self) -> dict[str, Any]:
        """The geometry and the fingerprint, JSON-ready."""
        return {**asdict(self.geometry), "fingerprint": self.fingerprint()}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Preprocess":
        """Rebuilds what `to_json` described and proves that it still computes the same.

        Raises:
            EnvironmentFault: if this version of torch prepares images differently: by more than two grey levels, which
                processors are allowed to differ by in rounding.
        """
        numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        expected = numbers.pop("fingerprint")
        preprocess = Preprocess(Geometry(**numbers))
        gaps = np.abs(np.subtract(preprocess.fingerprint(), expected))
        if gaps.max() > 2.01 * float(preprocess.scale.max()):
            raise EnvironmentFault(
                f"images are no longer prepared as they were in training (largest difference {gaps.max():.3g} after "
                "normalisation): use the torch version named in the run's manifest.json"
            )
        return preprocess


def to_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) uint8 -> (H, W, channels): grey is repeated, colour becomes luma.

    Raises:
        RequestError: if there is no such conversion.
    """
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if found == 3 and channels == 1:
        luma: NDArray[np.uint8] = (image @ np.array(LUMA) + 0.5).astype(np.uint8)
        return luma[:, :, None]
    raise RequestError(f"an image of {found} channels cannot feed a network of {channels}")
