"""Core ML, for Apple's devices. Converted anywhere, but run on macOS alone: elsewhere no artefact of it is scored."""

import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from linnaeus.deploy.coverage import State
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import Graph

FILE = "model.mlpackage"


class _FloatPixels(nn.Module):
    """The same graph for float pixels in [0, 255]: Core ML knows no 8-bit tensors."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.inner = graph  # `graph` is a name of PyTorch's own in what it exports

    def forward(self, images: Tensor) -> Tensor:
        """(B, S, S, C) float in [0, 255] -> (B, K) probabilities."""
        probabilities: Tensor = self.inner(images)
        return probabilities


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.mlpackage`, for `job.batch` images at once, or one."""
    with quiet():
        import coremltools

        example = job.graph.example(job.batch or 1).float()
        program = torch.export.export(_FloatPixels(job.graph), (example,)).run_decompositions({})
        precision = coremltools.precision
        model = coremltools.convert(
            program,
            inputs=[coremltools.TensorType("images", shape=tuple(example.shape))],
            outputs=[coremltools.TensorType("probabilities")],
            compute_precision=precision.FLOAT16 if job.precision == "f16" else precision.FLOAT32,
            minimum_deployment_target=coremltools.target.iOS16,
        )
        model.save(folder / FILE)
    return {}


def open_model(folder: Path, _precision: str) -> Run:
    """The model, on macOS."""
    if platform.system() != "Darwin":
        raise Unrunnable("Core ML runs on macOS alone: this artefact cannot be scored here")
    import coremltools

    try:
        model = coremltools.models.MLModel(str(folder / FILE))
    except (RuntimeError, OSError) as error:
        raise Unrunnable(f"{folder / FILE}: Core ML cannot load it: {first_line(error)}") from None

    def run(images: Pixels) -> NDArray[np.float32]:
        try:
            found: NDArray[np.float32] = model.predict({"images": images.astype(np.float32)})["probabilities"]
        except RuntimeError as error:
            raise Unrunnable(f"{len(images)} images at once: Core ML stopped: {first_line(error)}") from None
        return found

    return run
