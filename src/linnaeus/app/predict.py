"""A finished model applied to image files."""

import glob
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from zipfile import ZipFile

import numpy as np
import torch

from linnaeus.app.answers import answers_file, load_answers
from linnaeus.app.fastest import fastest_artefact
from linnaeus.app.progress import Display
from linnaeus.app.settle import promise_of
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, EnvironmentFault, RequestError
from linnaeus.core.files import atomic
from linnaeus.data.decode import EXTENSIONS
from linnaeus.deploy.artefact import Artefact, load_artefact, load_runtime
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.prediction import Prediction, Row

Add = Callable[[str, Row], None]


def predict(
    folder: Path,
    images: list[str],
    *,
    top: int,
    device: str,
    display: Display,
    embeddings: Path | None = None,
    min_accuracy: float | None = None,
) -> Iterator[tuple[str, Prediction]]:
    """Yields (path, prediction) for every image, in order; one that cannot be read has its `error` set.

    Args:
        folder: of a run, a model or an artefact.
        images: files, folders (searched at any depth) and glob patterns.
        min_accuracy: wished among the images that get an answer; by default what the run was trained for.
        embeddings: a file to write as well, see `write_embeddings`; it is there once the last prediction is taken.

    Raises:
        RequestError: if there is no model, an artefact is asked for what only a network gives, a pattern matches
            nothing, `embeddings` cannot be the name of a new file, or the accuracy cannot be promised.
        DataError: if a folder holds no images.
    """
    if embeddings is not None:
        _check_target(embeddings)
    as_it_is = embeddings is not None or min_accuracy is not None or device != "auto"
    classifier = load_runtime(folder) if as_it_is else _fastest(folder, display)
    if min_accuracy is not None:
        classifier = _promising(_network(classifier, "--min-accuracy"), folder, min_accuracy, display)
    archive: AbstractContextManager[Add] = nullcontext(_ignore)
    if embeddings is not None:
        archive = write_embeddings(embeddings, _network(classifier, "--embeddings"))
    classifier.to(pick(device) if isinstance(classifier, Bundle) or device != "auto" else torch.device("cpu"))
    paths = [path for image in images for path in expand(image)]
    with archive as add, display.bar("predicting", len(paths)) as advance:
        for path, row in zip(map(str, paths), classifier.rows(paths, top=top), strict=True):
            add(path, row)
            yield path, row.prediction
            advance(1)


def _fastest(folder: Path, display: Display) -> Bundle | Artefact:
    """The artefact that `benchmark` found to be the fastest for many images; else what is asked for."""
    fast = fastest_artefact(folder, many=True)
    if fast is not None:
        try:
            artefact = load_artefact(fast)
        except (RequestError, EnvironmentFault) as error:
            display.say(f"not used, though benchmark.json has it as the fastest here: {error}")
        else:
            network = folder / "model" if (folder / "model").is_dir() else folder
            display.say(f"answered by {fast}, the fastest here by benchmark.json; the network itself: {network}")
            return artefact
    return load_runtime(folder)


def _network(classifier: Bundle | Artefact, option: str) -> Bundle:
    """The classifier, if it is not an artefact."""
    if isinstance(classifier, Artefact):
        raise RequestError(f"{option} takes the network, and {classifier.folder} is an artefact: give the run")
    return classifier


def _promising(bundle: Bundle, folder: Path, min_accuracy: float, display: Display) -> Bundle:
    """The same model, with the threshold that keeps an accuracy."""
    if not 0 < min_accuracy < 1:
        raise RequestError(f"--min-accuracy {min_accuracy:g}: expected a share between 0 and 1, such as 0.99")
    file = answers_file(folder, "val")
    if not file.is_file():
        raise RequestError(
            f"--min-accuracy needs what the model said of val, and there is no {file}: give the folder of a newer "
            "run; or train with --set confidence.min_accuracy=..., and the threshold is part of the model"
        )
    val, about = load_answers(file), bundle.about
    abstain, line = promise_of(
        val, bundle.calibration, about["thresholds"] if val.task == "multi" else None, min_accuracy
    )
    if abstain["threshold"] is None:
        raise RequestError(f"--min-accuracy: {line}. More val images help (data.val_share), or a lower wish")
    display.say(line)
    limits = {**about.get("confidence", {}), "abstain": abstain}
    return Bundle(bundle.model, {**about, "confidence": limits}, bundle.preprocess)


@contextmanager
def write_embeddings(path: Path, bundle: Bundle) -> Iterator[Add]:
    """Yields a function that takes (path of an image, row); when the block succeeds, the file is there, whole.

    It is an archive of NumPy arrays without Python objects. Rows go to the disk as they come, so that the memory needed
    does not grow with the matrices.

    | array | content |
    |---|---|
    | `embeddings` | (N, D) float32, what the head classifies |
    | `probabilities` | (N, K) float32, calibrated |
    | `paths`, `labels` | (N,) text; the label is that of a `Prediction` |
    | `classes` | (K,) text |
    | `failed` | (M,) text, paths of the images that could not be read: they have no rows |
    """
    texts: dict[str, list[str]] = {"paths": [], "labels": [], "classes": list(bundle.classes), "failed": []}
    folder = path.parent
    with atomic(path) as temporary, TemporaryFile(dir=folder) as features, TemporaryFile(dir=folder) as probabilities:

        def add(image: str, row: Row) -> None:
            if row.embedding is None or row.probabilities is None:
                texts["failed"].append(image)
                return
            features.write(row.embedding.numpy().tobytes())
            probabilities.write(row.probabilities.numpy().tobytes())
            texts["paths"].append(image)
            texts["labels"].append(row.prediction.label)

        yield add
        num_rows = len(texts["paths"])
        with ZipFile(temporary, "w") as archive:
            _append_matrix(archive, "embeddings", features, (num_rows, bundle.embedding_size))
            _append_matrix(archive, "probabilities", probabilities, (num_rows, len(bundle.classes)))
            for name, values in texts.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.array(values, np.str_), allow_pickle=False)


def _append_matrix(archive: ZipFile, name: str, rows: IO[bytes], shape: tuple[int, int]) -> None:
    header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        rows.seek(0)
        shutil.copyfileobj(rows, file)


def _check_target(path: Path) -> None:
    if path.suffix != ".npz" or (path.exists() and not path.is_file()):
        raise RequestError(f"--embeddings {path}: expected the name of a file that ends in .npz")
    if not path.parent.is_dir():
        raise RequestError(f"--embeddings {path}: there is no folder {path.parent}")


def _ignore(_image: str, _row: Row) -> None:
    """Where no embeddings are asked for."""


def expand(image: str) -> list[Path]:
    """The files that a word on the command line means: one, those of a folder at any depth, or of a pattern."""
    path = Path(image)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not found:
            raise DataError(f"{image} holds no images")
        return found
    if not path.exists() and glob.has_magic(image):
        matches = sorted(Path(match) for match in glob.glob(image, recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise RequestError(f"no file matches {image}")
        return matches
    return [path]  # a missing file gets its row, as a broken one does
