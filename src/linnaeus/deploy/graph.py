"""The network as it is exported: pixels in, calibrated probabilities out, and nothing of Linnaeus left to install."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from linnaeus.core.fold import folded
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.views import views

EXAMPLES = 20
"""Images at capture: ExecuTorch takes 16 and fewer for a bound on what may come."""
MOST = 1024
"""Images at once, at most, where any number may come."""


class Graph(nn.Module):
    """(B, S, S, C) uint8 -> (B, K) float32 probabilities.

    Normalisation, the views of test-time augmentation, calibration and softmax or sigmoid are inside. The order of the
    axes is that of a decoded image, so that whoever calls it has nothing to turn round. Batch normalisation is folded
    into the convolutions; the sub-modules of `network` keep the names of the network's. All views of an image pass the
    network at once: quantizers see the first call of a layer, and leave others in floating point.

    Attributes:
        side, channels: S and C.
        several: whether an image may have several classes.
    """

    scale: Tensor
    shift: Tensor
    factor: Tensor
    offset: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.side, self.channels = bundle.preprocess.geometry.image_size, bundle.preprocess.channels
        preprocess = deepcopy(bundle.preprocess).cpu()
        # Those of a whole row of pixels: ONNX Runtime takes 20 times as long for numbers in groups of three.
        self.register_buffer("scale", preprocess.scale.flatten().repeat(self.side))
        self.register_buffer("shift", preprocess.shift.flatten().repeat(self.side))
        noise = torch.randint(0, 256, (2, self.channels, self.side, self.side), dtype=torch.uint8)
        network = deepcopy(bundle.model).cpu().to(memory_format=torch.contiguous_format)
        self.network = folded(network, preprocess(noise))
        self._views, self.several = bundle.tta, bundle.task == "multi"
        calibration = bundle.calibration
        factor = calibration.scale if calibration.method == "vector" else (1 / calibration.temperature,)
        self.register_buffer("factor", torch.tensor(factor))
        self.register_buffer("offset", torch.tensor(calibration.bias if calibration.method == "vector" else (0.0,)))
        self.computes_in = torch.float32
        self.eval().requires_grad_(False)

    def narrowed(self, dtype: torch.dtype) -> "Graph":
        """A copy whose network computes in `dtype`; normalisation and what follows the logits stay in float32."""
        copy = deepcopy(self)
        copy.network.to(dtype)
        copy.computes_in = dtype
        return copy

    def forward(self, images: Tensor) -> Tensor:
        """(B, S, S, C) uint8 -> (B, K) float32."""
        calibrated = self.calibrated(images)
        return calibrated.sigmoid() if self.several else calibrated.softmax(1)

    def calibrated(self, images: Tensor) -> Tensor:
        """(B, S, S, C) uint8 -> (B, K) float32, the logits of the probabilities."""
        rows = images.flatten(2).to(self.scale.dtype) * self.scale + self.shift  # (B, S, S * C)
        prepared = torch.unflatten(rows, 2, (self.side, self.channels)).permute(0, 3, 1, 2)  # (B, C, S, S)
        # In order again, or else PyTorch gives averages strides of its own, which no other runtime computes well.
        return self._logits(prepared.contiguous()) * self.factor + self.offset

    def _logits(self, prepared: Tensor) -> Tensor:
        """(B, C, S, S) float -> (B, K) float32, the mean of all V views."""
        if self._views == "none":
            alone: Tensor = self.network(prepared.to(self.computes_in)).float()
            return alone
        seen, weights = zip(*views(prepared, self._views), strict=True)
        together = torch.stack(seen, 1).flatten(0, 1)  # V x (B, ...) -> (B * V, ...)
        logits = self.network(together.to(self.computes_in)).float()
        weighted: Tensor = logits.reshape(-1, len(seen), logits.shape[1]) * torch.tensor(weights)[:, None]  # (B, V, K)
        return weighted.sum(1)

    def example(self, batch: int | None) -> Tensor:
        """(B, S, S, C) uint8 of random pixels; `EXAMPLES` images where any number may come."""
        shape = (batch or EXAMPLES, self.side, self.side, self.channels)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def capture(graph: Graph, batch: int | None, *, most: int = MOST) -> ExportedProgram:
    """The operations of a graph, without its Python code.

    Args:
        batch: images at once; None for any number from 1 to `most`.
    """
    with torch.no_grad():
        return export(graph, (graph.example(batch),), dynamic_shapes=any_number(batch, most))


def any_number(batch: int | None, most: int = MOST) -> tuple[dict[int, Dim]] | None:
    """What `torch.export` is told of the images: how many there may be, where that is open."""
    return None if batch else ({0: Dim("batch", min=1, max=most)},)
