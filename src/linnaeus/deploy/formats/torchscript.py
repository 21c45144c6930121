"""TorchScript, for readers of the tutorial and for programs that still load it. PyTorch has deprecated it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from linnaeus.deploy.coverage import State, weighted
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import Graph

FILE = "model.ts"
JIT: Any = torch.jit  # without types


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.ts`: traced and frozen."""
    with quiet(), torch.no_grad():
        graph = _tutorial(job.graph) if job.precision == "tutorial-int8" else job.graph
        traced = JIT.trace(graph, job.graph.example(job.batch))
        JIT.save(JIT.freeze(traced), str(folder / FILE))
    return {} if graph is job.graph else _states(job.graph, graph)


def _tutorial(graph: Graph) -> Graph:
    """The tutorial's call, as it stands there. There is no dynamic quantization of convolutions, whatever is asked."""
    quantization: Any = torch.ao.quantization
    changed: Graph = quantization.quantize_dynamic(graph, {nn.Linear, nn.Conv2d}, dtype=torch.qint8)
    return changed


def _states(before: Graph, after: Graph) -> dict[str, State]:
    """A layer that was quantized is of another class."""
    modules = dict(after.network.named_modules())
    return {name: "float" if type(modules[name]) is type(m) else "int8" for name, m in weighted(before).items()}


def open_model(folder: Path, _precision: str) -> Run:
    """The frozen program, with what PyTorch can still do for it on this machine."""
    try:
        with quiet():
            program = JIT.optimize_for_inference(JIT.load(str(folder / FILE)))
    except (RuntimeError, ValueError) as error:
        raise Unrunnable(f"{folder / FILE}: PyTorch cannot load it: {first_line(error)}") from None

    def run(images: Pixels) -> NDArray[np.float32]:
        try:
            with torch.no_grad(), quiet():
                found: NDArray[np.float32] = program(torch.from_numpy(images)).numpy()
        except RuntimeError as error:
            raise Unrunnable(f"{len(images)} images at once: PyTorch stopped: {first_line(error)}") from None
        return found

    return run
