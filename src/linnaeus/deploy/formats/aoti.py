"""AOTInductor: a network compiled to native code for processors like this one; PyTorch loads and runs it."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import export

from linnaeus.deploy.coverage import State
from linnaeus.deploy.formats import pt2e
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, by_size, first_line, quiet
from linnaeus.deploy.graph import capture

SIZES = (1, 16)
"""Images at once: compiled for any number, 8-bit integers gain nothing on one image."""


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model-1.pt2` and others, one for each number of images at once."""
    from torch._inductor import aoti_compile_and_package

    states: Mapping[str, State] = {}
    with quiet(), torch.no_grad():
        if job.precision == "int8":  # once for all sizes: each calibrated by itself would be another network
            graph, states = pt2e.quantize(job, _quantizer(job), job.batch)
        for size in SIZES if job.batch is None else (job.batch,):
            if job.precision == "int8":
                program = export(graph, (job.graph.example(size),))
            else:
                dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
                program = capture(job.graph.narrowed(dtype), size)
            path = str(folder / f"model-{size}.pt2")
            aoti_compile_and_package(program, package_path=path, inductor_configs={"freezing": True})
    return states


def _quantizer(job: Job) -> Any:
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    for name in sorted(job.keep_float):
        quantizer.set_module_name_qconfig(f"network.{name}", None)
    return quantizer


def open_model(folder: Path, _precision: str) -> Run:
    """The compiled programs, each for its number of images."""
    runs = {size: _load(path) for size, path in _files(folder)}
    if not runs:
        raise Unrunnable(f"{folder}: there is no model-N.pt2, a program for N images at once")
    return by_size(runs)


def _files(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(folder.glob("model-*.pt2")):
        yield int(path.stem.removeprefix("model-")), path


def _load(path: Path) -> Run:
    from torch._inductor import aoti_load_package

    try:
        program = aoti_load_package(str(path))
    except (RuntimeError, OSError) as error:
        raise Unrunnable(f"{path}: PyTorch cannot load it: {first_line(error)}") from None
    return partial(_run, program)


def _run(program: Any, images: Pixels) -> NDArray[np.float32]:
    try:
        with torch.no_grad():
            found: NDArray[np.float32] = program(torch.from_numpy(images)).numpy()
    except RuntimeError as error:
        raise Unrunnable(f"{len(images)} images at once: PyTorch stopped: {first_line(error)}") from None
    return found
