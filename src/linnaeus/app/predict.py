"""A finished model applied to image files."""

import glob
from collections.abc import Iterator
from pathlib import Path

from linnaeus.app.progress import Display
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.decode import EXTENSIONS
from linnaeus.deploy.bundle import Prediction, load_bundle


def predict(
    folder: Path, images: list[str], *, top: int, device: str, display: Display
) -> Iterator[tuple[str, Prediction]]:
    """Yields (path, prediction) for every image, in order; one that cannot be read has its `error` set.

    Args:
        folder: of a run or a model.
        images: files, folders (searched at any depth) and glob patterns.

    Raises:
        RequestError: if there is no model, or a pattern matches nothing.
        DataError: if a folder holds no images.
    """
    bundle = load_bundle(folder).to(pick(device))
    paths = [path for image in images for path in _expand(image)]
    with display.bar("predicting", len(paths)) as advance:
        for path, prediction in zip(paths, bundle.stream(paths, top=top), strict=True):
            yield str(path), prediction
            advance(1)


def _expand(image: str) -> list[Path]:
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
