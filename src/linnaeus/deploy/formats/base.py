"""What every format is told and what it offers."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.deploy.coverage import State
from linnaeus.deploy.graph import Graph

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], NDArray[np.float32]]
"""(B, S, S, C) uint8 -> (B, K) float32 probabilities."""
Takes = Literal["prepared", "any"]
"""What images an artefact takes: resized and cropped to the network's size, or one of any size."""


class Unrunnable(EnvironmentFault):
    """A runtime cannot load an artefact, or stopped while it computed."""


class Unchanged(RequestError):
    """A quantization that was asked for would change nothing."""


@dataclass(frozen=True)
class Job:
    """What is to be exported.

    Attributes:
        precision: one of the format's.
        batch: images at once; None for any number.
        calibration: (N, S, S, C) uint8, training images that show which values occur; empty where none are needed.
        keep_float: sub-modules of the network that are not to be quantized.
    """

    graph: Graph
    precision: str
    batch: int | None = None
    calibration: Pixels = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.uint8))
    keep_float: frozenset[str] = frozenset()

    def batches(self, size: int) -> list[Pixels]:
        """The calibration images, `size` at a time; those that are left over are left out."""
        size = min(size, len(self.calibration))
        return np.split(self.calibration[: len(self.calibration) // size * size], len(self.calibration) // size)


@dataclass(frozen=True)
class Format:
    """A way to leave PyTorch.

    Attributes:
        precisions: name -> what it is, the plainest first.
        file: the name of the file that holds the network.
        runtime, exporter, quantizer: packages that running takes, writing besides, and "int8" besides, by the names
            they are imported by.
        extra: what installs them all.
        write: makes the files of an artefact in an empty folder, and says what became of each layer where it quantizes.
        open: loads the files of a precision; raises `Unrunnable`.
        note: what a person should know who chooses it.
        widen: puts the resize and the crop before the network of an artefact in a folder, which takes one image then;
            None where the format cannot.
    """

    precisions: Mapping[str, str]
    file: str
    runtime: tuple[str, ...]
    exporter: tuple[str, ...]
    quantizer: tuple[str, ...]
    extra: str
    write: Callable[[Job, Path], Mapping[str, State]]
    open: Callable[[Path, str], Run]
    note: str = ""
    widen: Callable[[Path, Preprocess], None] | None = None

    def missing(self, precision: str | None = None) -> list[str]:
        """The packages that are not installed, of those that running takes, or writing a precision."""
        wanted = [
            *self.runtime,
            *(self.exporter if precision else ()),
            *(self.quantizer if precision == "int8" else ()),
        ]
        return [package for package in wanted if find_spec(package) is None]


def first_line(error: BaseException) -> str:
    """What a runtime says of an error, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def by_size(runs: Mapping[int, Run]) -> Run:
    """One way to run out of several that each take a fixed number of images: the largest first, the last one padded.

    What is left when the largest is used up goes to the next smaller one, unless more than half of a larger one would
    be filled.
    """
    sizes = sorted(runs, reverse=True)

    def run(images: Pixels) -> NDArray[np.float32]:
        found = []
        while len(images):
            size = next((size for size in sizes if 2 * len(images) > size), sizes[-1])
            part, images = images[:size], images[size:]
            padded = part if len(part) == size else np.concatenate([part, part[-1:].repeat(size - len(part), 0)])
            found.append(runs[size](padded)[: len(part)])
        return np.concatenate(found)

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters tell their developers much; what matters to a user is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
