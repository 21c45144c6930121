"""What a model said of each image of a role, kept in the run's folder: scores, slices and comparisons start from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from linnaeus.app.prepare import image_name
from linnaeus.app.progress import Display
from linnaeus.core.batch import Batch, Loader
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.core.runtime import Task
from linnaeus.data.doctor import Audit
from linnaeus.data.loader import watched_workers
from linnaeus.data.sources import Source
from linnaeus.deploy.artefact import Artefact
from linnaeus.deploy.bundle import Bundle
from linnaeus.engine.evaluate import Parts, evaluate
from linnaeus.metrics.outputs import Outputs
from linnaeus.metrics.slices import Column, as_column, by_quantiles

KIND, VERSION = "linnaeus-answers", 1
FOLDER = "evaluation"


@dataclass(frozen=True)
class Answers:
    """The N images of a role that could be read, in the order of the source.

    Attributes:
        names: as in `data/index.csv`.
        positions: (N,) int64, their rows there.
        digests: (N, 16) uint8, hashes of their contents, which name an image in any run; zeros if unknown.
        logits: (N, K) float32, not calibrated.
        truths: (N, K) bool.
        columns: what may part images on which the model does well from others: size, orientation, brightness, and the
            further columns of a table.
    """

    task: Task
    classes: tuple[str, ...]
    names: tuple[str, ...]
    positions: NDArray[np.int64]
    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    truths: NDArray[np.bool_]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.int64]) -> "Answers":
        """Some of the images, in the order of `rows`."""
        columns = {name: Column(column.values, column.codes[rows]) for name, column in self.columns.items()}
        arrays = (self.positions[rows], self.digests[rows], self.logits[rows], self.truths[rows])
        return Answers(self.task, self.classes, tuple(self.names[row] for row in rows.tolist()), *arrays, columns)


def collect(
    bundle: Bundle | Artefact, loader: Loader, source: Source, audit: Audit, *, device: torch.device, display: Display
) -> Answers:
    """Asks a model, as it is used but without its calibration, about every image that `loader` brings.

    What an artefact says is calibrated already, as its `about` says.

    Args:
        source, audit: of the positions that the batches of `loader` have.
    """
    bundle.to(device)
    noted, into = _Noted(loader), _Targets(len(bundle.classes))
    with watched_workers(), display.bar("evaluating", loader.num_images) as advance:
        if isinstance(bundle, Artefact) and bundle.takes == "any":
            _ask_whole(bundle, noted, source, into, advance)
        else:
            logits_of = partial(Parts(display.say).logits, bundle.uncalibrated)
            evaluate(logits_of, noted, into=into, device=device, progress=advance)
    judged = into.outputs.read()
    positions = torch.cat(noted.positions).numpy()
    columns = _columns(source, audit.shapes[positions], torch.cat(noted.brightness).numpy(), positions)
    digests = np.ascontiguousarray(audit.digests[positions]).view(np.uint8).reshape(len(positions), 16)
    names = tuple(image_name(source, position) for position in positions.tolist())
    return Answers(bundle.task, bundle.classes, names, positions, digests, judged.logits, judged.truths, columns)


def save_answers(path: Path, answers: Answers) -> None:
    """Writes them as one safetensors file.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    truths = answers.truths.argmax(1) if answers.task == "single" else answers.truths.astype(np.uint8)
    arrays = {
        "names": np.frombuffer("\0".join(answers.names).encode(), np.uint8),
        "positions": answers.positions,
        "digests": answers.digests,
        "logits": answers.logits,
        "truths": truths,
        **{f"columns.{name}": column.codes for name, column in answers.columns.items()},
    }
    values = [[name, list(column.values)] for name, column in answers.columns.items()]
    about = {"task": answers.task, "classes": list(answers.classes), "columns": values}
    path.parent.mkdir(exist_ok=True)
    save_tensors(path, KIND, VERSION, {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, about)


def load_answers(path: Path) -> Answers:
    """Reads what `save_answers` wrote.

    Raises:
        RequestError: if the file is missing or of another kind.
        EnvironmentFault: if it is damaged, or newer than this Linnaeus.
    """
    tensors, about = load_tensors(path, KIND, VERSION)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    number = len(about["classes"])
    truths = arrays["truths"].astype(bool)
    if about["task"] == "single":
        truths = np.arange(number) == arrays["truths"][:, None]
    columns = {name: Column(tuple(values), arrays[f"columns.{name}"]) for name, values in about["columns"]}
    return Answers(
        about["task"],
        tuple(about["classes"]),
        tuple(arrays["names"].tobytes().decode().split("\0")),
        arrays["positions"],
        arrays["digests"],
        arrays["logits"],
        truths,
        columns,
    )


def answers_file(run: Path, role: str) -> Path:
    """Where a run keeps the answers for one of its roles."""
    return run / FOLDER / f"{role}.safetensors"


def _ask_whole(
    artefact: Artefact, noted: "_Noted", source: Source, into: "_Targets", advance: Callable[[int], None]
) -> None:
    """Asks an artefact that resizes by itself about the images as they are decoded; the loader brings the rest."""
    for batch in noted.epoch(0):
        logits = torch.zeros(len(batch.valid), len(artefact.classes))
        for row in batch.valid.nonzero()[:, 0].tolist():
            logits[row] = artefact.uncalibrated_whole(source.decode(source.read(int(batch.index[row]))))[0]
        into.update(logits, batch.targets, batch.valid)
        advance(len(batch))


class _Noted:
    """Hands on the batches of a loader, and notes which images pass, and how bright they are."""

    def __init__(self, loader: Loader) -> None:
        self.num_images, self.num_batches = loader.num_images, loader.num_batches
        self._loader = loader
        self.positions: list[Tensor] = []
        self.brightness: list[Tensor] = []

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The loader's own."""
        for batch in self._loader.epoch(epoch, start):
            self.positions.append(batch.index[batch.valid])
            self.brightness.append(batch.images[batch.valid].float().mean((1, 2, 3)) / 255)
            yield batch


class _Targets:
    """Fills `Outputs` with targets of either task."""

    def __init__(self, num_classes: int) -> None:
        self.outputs = Outputs(num_classes)

    def update(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Takes in one batch."""
        if targets.ndim == 1:
            targets = F.one_hot(torch.where(valid, targets, 0), self.outputs.num_classes)
        self.outputs.update(logits, targets, valid)


def _columns(
    source: Source, shapes: NDArray[np.int64], brightness: NDArray[np.float32], positions: NDArray[np.int64]
) -> dict[str, Column]:
    height, width = shapes[:, 0], shapes[:, 1]
    orientation = np.sign(width - height).astype(np.int32) + 1
    own = {
        "size": by_quantiles(np.minimum(height, width).astype(np.float64), "{:.0f} pixels"),
        "orientation": Column(("portrait", "square", "landscape"), orientation),
        "brightness": by_quantiles(brightness.astype(np.float64), "{:.0%}"),
    }
    extra = source.labels.take(positions).extra
    # A column of the user's that is called like one of ours is the one that is meant.
    return own | {name: as_column(facet.values, facet.codes) for name, facet in extra.items()}
