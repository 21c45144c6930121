"""A folder of class folders, perhaps inside split folders: `photos/cat/1.jpg`, `photos/train/cat/1.jpg`."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.decode import EXTENSIONS, Pixels, decode
from linnaeus.data.sources.base import Labels

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class FolderSource:
    """Image files below one folder. Nothing is opened until it is read."""

    def __init__(self, root: Path, paths: list[str], labels: Labels) -> None:
        """`paths` are relative to `root`, in the order of `labels`."""
        self.root = root
        self.paths = paths
        self.labels = labels

    def name(self, index: int) -> str:
        """The path relative to the folder."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return (self.root / self.paths[index]).read_bytes()

    def decode(self, content: bytes) -> Pixels:
        """Decodes by the policy of `data/decode.py`."""
        return decode(content)


def open_folder(root: Path) -> FolderSource:
    """Lists a folder of class folders.

    The folder has splits when it holds a folder called `train` beside, or without, `val` (`valid`, `validation`) and
    `test`. Files of a class are found at any depth; links are followed, loops are not; hidden files are passed over.

    Raises:
        RequestError: if `root` is not a folder.
        DataError: if there are no class folders, only one class, or a class without an image.
    """
    if not root.is_dir():
        raise RequestError(f"{root} is not a folder. Give a folder of class folders, or the name of a built-in set")
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)  # class -> (split, path)
    ignored: list[str] = []
    for split, folder in _split_folders(root):
        for class_folder in _folders(folder):
            entries = found[class_folder.name]
            for path in _files(class_folder, set()):
                relative = str(path.relative_to(root))
                if path.suffix.lower() in EXTENSIONS:
                    entries.append((split, relative))
                else:
                    ignored.append(relative)
    _check(root, found)
    return _source(root, dict(sorted(found.items())), ignored)


def _source(root: Path, found: dict[str, list[tuple[str, str]]], ignored: list[str]) -> FolderSource:
    targets = [label for label, entries in enumerate(found.values()) for _ in entries]
    splits = [split for entries in found.values() for split, _ in entries]
    paths = [path for entries in found.values() for _, path in entries]
    labels = Labels(tuple(found), np.array(targets, np.int64), np.array(splits, np.str_), tuple(ignored))
    return FolderSource(root, paths, labels)


def _check(root: Path, found: dict[str, list[tuple[str, str]]]) -> None:
    if not any(found.values()):
        raise DataError(
            f"{root} has no images. Expected one folder a class, as in {root}/cat/1.jpg and {root}/dog/2.jpg"
        )
    empty = [name for name, entries in found.items() if not entries]
    if empty:
        raise DataError(f"class '{empty[0]}' has no images: add some to {root}, or remove its folder")
    if len(found) == 1:
        raise DataError(
            f"{root} has only one class, '{next(iter(found))}': a classifier needs at least two class folders"
        )


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) pairs; one pair with split "" where the classes lie directly in `root`."""
    folders = [(SPLIT_NAMES[f.name.lower()], f) for f in _folders(root) if f.name.lower() in SPLIT_NAMES]
    names = [split for split, _ in folders]
    if "train" not in names:
        return [("", root)]
    if len(set(names)) < len(names):
        raise DataError(f"{root} has several folders for one split: {', '.join(f.name for _, f in folders)}")
    return folders


def _folders(root: Path) -> list[Path]:
    with _scan(root) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(folder: Path, above: set[str]) -> Iterator[Path]:
    """Files below `folder`, sorted; `above` holds the real paths of the folders above, to stop at link loops."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with _scan(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir():
            yield from _files(Path(entry.path), above | {real})
        elif entry.is_file():
            yield Path(entry.path)


def _scan(folder: Path) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except PermissionError:
        raise RequestError(f"{folder} cannot be read: permission denied") from None
