"""ExecuTorch with XNNPACK: one small file for phones and small devices, run here through its Python runtime."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import export

from linnaeus.deploy.coverage import State
from linnaeus.deploy.formats import pt2e
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import any_number, capture

FILE = "model.pte"
MOST = 32
"""Images at once: a program holds the memory that most images take from the beginning to the end."""


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.pte`."""
    states: Mapping[str, State] = {}
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        if job.precision == "int8":
            graph, states = pt2e.quantize(job, _quantizer(job), job.batch, most=MOST)
            program = export(graph, (job.graph.example(job.batch),), dynamic_shapes=any_number(job.batch, MOST))
        else:
            program = capture(job.graph, job.batch, most=MOST)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / FILE).write_bytes(lowered.buffer)
    return states


def _quantizer(job: Job) -> object:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: pt2e.is_inside(node) and pt2e.layer_of(node, job.keep_float) is None)
    return quantizer


def open_model(folder: Path, _precision: str) -> Run:
    """The program's one method."""
    with quiet():
        from executorch.runtime import Runtime

    try:
        method = Runtime.get().load_program(folder / FILE).load_method("forward")
    except RuntimeError as error:
        raise Unrunnable(f"{folder / FILE}: ExecuTorch cannot load it: {first_line(error)}") from None

    def run(images: Pixels) -> NDArray[np.float32]:
        parts = np.split(images, range(MOST, len(images), MOST))
        try:
            # Copied: the memory of an answer is the program's, and holds another one after the next call.
            found = np.concatenate([method.execute([torch.from_numpy(part)])[0].numpy().copy() for part in parts])
        except RuntimeError as error:
            raise Unrunnable(f"{len(images)} images at once: ExecuTorch stopped: {first_line(error)}") from None
        return found

    return run
