"""`torch.export`: the operations of a network as PyTorch loads them, without its Python code."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from linnaeus.core.preprocess import Preprocess
from linnaeus.deploy.anysize import Fit, capture_any
from linnaeus.deploy.coverage import State
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import capture

FILE = "model.pt2"


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.pt2`."""
    graph = job.graph.narrowed(torch.bfloat16) if job.precision == "bf16" else job.graph
    with quiet():
        torch.export.save(capture(graph, job.batch), folder / FILE)
    return {}


def widen(folder: Path, preprocess: Preprocess) -> None:
    """Puts the resize and the crop before the program of one image in `model.pt2`."""
    with quiet():
        program = torch.export.load(folder / FILE).module()
        whole = nn.Sequential(Fit(preprocess.geometry), program)
        torch.export.save(capture_any(whole, preprocess.channels), folder / FILE)


def open_model(folder: Path, _precision: str) -> Run:
    """The program, run an operation at a time."""
    try:
        with quiet():
            program = torch.export.load(folder / FILE).module()
    except (RuntimeError, zipfile.BadZipFile, ValueError, OSError) as error:
        raise Unrunnable(f"{folder / FILE}: PyTorch cannot load it: {first_line(error)}") from None

    def run(images: Pixels) -> NDArray[np.float32]:
        try:
            with torch.no_grad():
                found: NDArray[np.float32] = program(torch.from_numpy(images)).numpy()
        except (RuntimeError, AssertionError) as error:
            raise Unrunnable(f"{len(images)} images at once: PyTorch stopped: {first_line(error)}") from None
        return found

    return run
