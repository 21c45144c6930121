"""An exported classifier on disk: what a runtime loads, and `artefact.json` beside it, which says all else.

| file | content |
|---|---|
| `model.*` | the network, with normalisation, calibration and softmax or sigmoid inside |
| `artefact.json` | format, checksums, `model.json` of the network, the gate's verdict, what the golden samples give |
| `golden/*.png` | images as it takes them, whose probabilities are known |
| `predict.py`, ... | how to use it without Linnaeus |
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import read_json, write_json
from linnaeus.core.preprocess import Preprocess, to_channels
from linnaeus.data.decode import ImageLike, load_image
from linnaeus.data.encode import encode_png
from linnaeus.deploy.bundle import Bundle, load_bundle
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Pixels, Run, Takes, by_size
from linnaeus.deploy.labelling import Labelling, read_rows, read_whole
from linnaeus.deploy.prediction import Prediction, Row

KIND, VERSION = "linnaeus-artefact", 1
ABOUT = "artefact.json"
PARTS = ("name", "format_name", "precision", "batch", "model", "golden", "files")
GOLDEN = 4
"""Samples that an artefact carries."""
GOLDEN_GAP = {"f32": 1e-4}
GOLDEN_GAP_REDUCED = 0.05
"""How far the probabilities of golden samples may move on another machine, whose kernels round differently."""


class Artefact:
    """An exported classifier with its preprocessing and class names. A `Runtime`."""

    def __init__(self, folder: Path, content: Mapping[str, Any], run: Run) -> None:
        """`content` is that of `artefact.json`."""
        self.folder, self.content = folder, content
        self.name: str = content["name"]
        self.precision: str = content["precision"]
        self.takes: Takes = content.get("takes", "prepared")
        self.labelling = Labelling(content["model"])
        self.task, self.classes = self.labelling.task, self.labelling.classes
        self.preprocess = Preprocess.from_json(content["model"]["preprocess"]).eval()
        self._run = run

    @property
    def about(self) -> dict[str, Any]:
        """`model.json` for `uncalibrated`: what it gives is calibrated already, and tells nothing of familiarity."""
        model = dict(self.content["model"])
        limits = {name: value for name, value in model.get("confidence", {}).items() if name != "familiarity"}
        return {**model, "calibration": {"method": "none", "temperature": 1.0}, "confidence": limits}

    def to(self, device: torch.device) -> "Artefact":
        """Itself: an artefact runs where its runtime runs it, on the CPU.

        Raises:
            RequestError: for any other device.
        """
        if device.type != "cpu":
            raise RequestError(f"{self.folder}: an exported artefact runs on the CPU; --device cpu, or give the run")
        return self

    def probabilities(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8, as `preprocess.fit` makes them -> (B, K) float32."""
        if self.takes == "any":  # in a frame that makes the graph's resize nothing, and that its crop takes away
            size, short = self.preprocess.geometry.image_size, self.preprocess.geometry.resize
            before = round((short - size) / 2)
            images = F.pad(images, (before, short - size - before) * 2)
        return torch.from_numpy(self.run(images.permute(0, 2, 3, 1).numpy()))  # (B, C, S, S) -> (B, S, S, C)

    def uncalibrated(self, images: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> (B, K) float32 logits that give its probabilities."""
        return self._logits(self.probabilities(images))

    def uncalibrated_whole(self, image: Pixels) -> Tensor:
        """(H, W, 1 or 3) uint8 at its own size, of an artefact that takes any -> (1, K), as `uncalibrated`."""
        return self._logits(torch.from_numpy(self.run(to_channels(image, self.preprocess.channels)[None])))

    def _logits(self, probabilities: Tensor) -> Tensor:
        found = probabilities.double().clamp(1e-12, 1 - 1e-12)
        return (found.log() if self.task == "single" else found.logit()).float()

    def run(self, images: Pixels) -> NDArray[np.float32]:
        """(B, S, S, C) uint8, or (B, H, W, C) where it takes any size -> (B, K) float32, in memory of its own."""
        return np.array(self._run(np.ascontiguousarray(images)), np.float32)  # runtimes trust the order of the bytes

    def predict(self, images: Sequence[ImageLike], *, top: int = 5, batch_size: int = 32) -> list[Prediction]:
        """Classifies images, one prediction for each, in order; as `Bundle.predict`."""
        return list(self.stream(images, top=top, batch_size=batch_size))

    def stream(self, images: Iterable[ImageLike], *, top: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
        """As `predict`, a batch at a time. An image that cannot be read yields a prediction with its `error`."""
        return (row.prediction for row in self.rows(images, top=top, batch_size=batch_size))

    def rows(self, images: Iterable[ImageLike], *, top: int = 5, batch_size: int = 32) -> Iterator[Row]:
        """As `stream`, with all probabilities; there are no embeddings."""
        if self.takes == "any":
            return read_whole(images, self.preprocess.channels, partial(self._row, top=top))
        return read_rows(images, self.preprocess, partial(self._rows, top=top), batch_size=batch_size)

    def _row(self, image: Pixels, top: int) -> Row:
        found = torch.from_numpy(self.run(image[None]))
        (prediction,) = self.labelling.predictions(found, None, top)
        return Row(prediction, None, found[0])

    def _rows(self, images: Tensor, top: int) -> Iterator[Row]:
        probabilities = self.probabilities(images)
        for prediction, own in zip(self.labelling.predictions(probabilities, None, top), probabilities, strict=True):
            yield Row(prediction, None, own)

    def check_golden(self) -> float:
        """The largest difference of a probability of the golden samples from what they gave when it was exported.

        Raises:
            EnvironmentFault: if it is larger than rounding explains: the artefact does not work on this machine.
        """
        images = read_golden(self.folder, self.content)
        batches = [image[None] for image in images] if self.takes == "any" else [np.stack(images)]
        gap = golden_gap(np.concatenate([self.run(batch) for batch in batches]), self.content)
        allowed = GOLDEN_GAP.get(self.precision, GOLDEN_GAP_REDUCED)
        if gap > allowed:
            raise EnvironmentFault(
                f"{self.folder}: its golden samples no longer give what they gave when it was exported: a probability "
                f"differs by {gap:.2g}, and {allowed:g} is allowed. Export it on this machine"
            )
        return gap


def golden_gap(found: NDArray[np.float32], content: Mapping[str, Any]) -> float:
    """(N, K) probabilities of the golden samples -> their largest difference from the stored ones."""
    expected = np.array(content["golden"]["probabilities"], np.float32)
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def read_golden(folder: Path, content: Mapping[str, Any]) -> list[Pixels]:
    """N times (H, W, C) uint8, as the artefact takes them."""
    return [load_image(folder / name) for name in content["golden"]["images"]]


def write_about(
    folder: Path, content: dict[str, Any], golden: Sequence[Pixels], probabilities: NDArray[np.float32]
) -> dict[str, Any]:
    """Writes the golden samples, and `artefact.json` with checksums of all files in the folder; gives its content."""
    (folder / "golden").mkdir(exist_ok=True)
    names = [f"golden/{number}.png" for number in range(len(golden))]
    for name, image in zip(names, golden, strict=True):
        (folder / name).write_bytes(encode_png(image))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ABOUT
    }
    golden_part = {"images": names, "probabilities": [[round(p, 6) for p in row] for row in probabilities.tolist()]}
    content = {**content, "golden": golden_part, "files": files}
    write_json(folder / ABOUT, KIND, VERSION, content)
    return content


def read_artefact(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of an artefact and what `artefact.json` says, once all its files are proved to be the exported ones.

    Args:
        path: the folder, or a file in it.

    Raises:
        RequestError: if there is no artefact.
        EnvironmentFault: if a file is missing or was changed, or it is of a newer version than this one can read.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / ABOUT).is_file():
        raise RequestError(f"{path} is no artefact of `linnaeus export`: there is no {ABOUT} beside it")
    content = read_json(folder / ABOUT, KIND, VERSION)
    _check_complete(folder, content)
    for name, expected in content["files"].items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise EnvironmentFault(f"{folder} is not whole: {name} is missing. Export it again")
        if _digest(file) != expected["sha256"]:
            raise EnvironmentFault(f"{file} is not the exported file: its checksum differs. Export it again")
    return folder, content


def _check_complete(folder: Path, content: Mapping[str, Any]) -> None:
    """Raises if a part of `artefact.json` is gone, or a runtime would load a file that it does not name."""
    if absent := [name for name in PARTS if name not in content]:
        raise EnvironmentFault(f"{folder / ABOUT} is damaged: it has no '{absent[0]}'. Export it again")
    if content["format_name"] not in FORMATS:
        raise EnvironmentFault(f"{folder} is of the format '{content['format_name']}', which this Linnaeus cannot run")
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("model*")) if path.is_file()]
    if strangers := [name for name in found if name not in content["files"]]:
        raise EnvironmentFault(f"{folder / strangers[0]} is not of this artefact: {ABOUT} does not name it. Remove it")


def load_artefact(path: Path) -> Artefact:
    """Loads an artefact for its runtime. Raises what `read_artefact` raises, and where the runtime is missing or fails.

    Raises:
        RequestError: if its runtime is not installed.
        Unrunnable: if its runtime cannot load it.
    """
    folder, content = read_artefact(path)
    return Artefact(folder, content, open_run(folder, content["format_name"], content["precision"], content["batch"]))


def open_run(folder: Path, name: str, precision: str, batch: int | None) -> Run:
    """What runs the files of an artefact.

    Args:
        batch: images at once, where it takes a fixed number; fewer are padded.

    Raises:
        RequestError: if the runtime is not installed.
        Unrunnable: if it cannot load the files.
    """
    form = FORMATS[name]
    if missing := form.missing():
        raise RequestError(
            f"{name} needs {', '.join(missing)}, which is not installed: pip install 'linnaeus[{form.extra}]'"
        )
    run = form.open(folder, precision)
    return run if batch is None else by_size({batch: run})


def load_runtime(path: Path) -> Bundle | Artefact:
    """A run, a model or an artefact, ready to be asked. Raises what `load_bundle` and `load_artefact` raise."""
    is_artefact = (path / ABOUT).is_file() or (path.is_file() and (path.parent / ABOUT).is_file())
    return load_artefact(path) if is_artefact else load_bundle(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
