"""A folder of class folders, perhaps inside split folders: `photos/cat/1.jpg`, `photos/train/cat/1.jpg`."""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from linnaeus.core.errors import DataError
from linnaeus.data.decode import EXTENSIONS
from linnaeus.data.sources.base import SPLIT_NAMES, Labels
from linnaeus.data.sources.files import FileSource
from linnaeus.data.sources.paths import PathList, join, readable

_SUFFIXES = frozenset(extension.encode() for extension in EXTENSIONS)
_PIECE = 1 << 16  # names that are handed on at a time: a million at once would cost 100 MB


@dataclass
class _Class:
    """The files of one class; `counts` holds how many of them each split folder brought, in order."""

    files: PathList = field(default_factory=PathList)
    counts: list[tuple[str, int]] = field(default_factory=list)


def open_folder(root: Path) -> FileSource:
    """Lists a folder of class folders.

    The folder has splits when it holds a folder called `train` beside, or without, `val` (`valid`, `validation`) and
    `test`. Files of a class are found at any depth; links are followed, loops are not; hidden files are passed over.

    Raises:
        DataError: if there are no class folders, only one class, or a class without an image.
        PermissionError: if a folder cannot be read.
    """
    found: dict[str, _Class] = defaultdict(_Class)
    ignored: list[str] = []
    for split, folder in split_folders(root):
        for class_folder in folders_in(folder):
            relative = os.fsencode(class_folder.relative_to(root))
            if _leads_up(class_folder):
                ignored.append(f"{os.fsdecode(relative)} (a link to a folder above it)")
                continue
            own = found[readable(class_folder.name)]
            before = len(own.files)
            for images in _images(os.fsencode(class_folder), relative, frozenset(), ignored):
                own.files.extend(images)
            own.counts.append((split, len(own.files) - before))
    _check(root, found)
    return _source(root, dict(sorted(found.items())), ignored)


def _source(root: Path, found: dict[str, _Class], ignored: list[str]) -> FileSource:
    targets = np.repeat(np.arange(len(found)), [len(own.files) for own in found.values()])
    counts = [count for own in found.values() for count in own.counts]
    splits = np.repeat(np.array([split for split, _ in counts], np.str_), [number for _, number in counts])
    paths = join([own.files for own in found.values()])
    return FileSource(root, paths, Labels(tuple(found), targets, splits, tuple(ignored)))


def _check(root: Path, found: dict[str, _Class]) -> None:
    if not any(len(own.files) for own in found.values()):
        loose = sum(path.suffix.lower() in EXTENSIONS for path in root.iterdir())
        has = f"{loose:,} images, but none in a folder of its class" if loose else "no images"
        raise DataError(f"{root} has {has}. Expected one folder a class, as in {root}/cat/1.jpg and {root}/dog/2.jpg")
    empty = [name for name, own in found.items() if not len(own.files)]
    if empty:
        raise DataError(f"class '{empty[0]}' has no images: add some to {root}, or remove its folder")
    if len(found) == 1:
        raise DataError(
            f"{root} has only one class, '{next(iter(found))}': a classifier needs at least two class folders"
        )


def split_folders(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) pairs; one pair with split "" where there is no folder called `train`.

    Raises:
        DataError: if two folders claim one split.
    """
    named = [(SPLIT_NAMES[f.name.lower()], f) for f in folders_in(root) if f.name.lower() in SPLIT_NAMES]
    names = [split for split, _ in named]
    if "train" not in names:
        return [("", root)]
    if len(set(names)) < len(names):
        raise DataError(f"{root} has several folders for one split: {', '.join(f.name for _, f in named)}")
    return named


def folders_in(root: Path) -> list[Path]:
    """The folders directly in `root`, sorted, but for hidden ones."""
    names, kinds = _listing(os.fsencode(root))
    return [root / os.fsdecode(name) for name in names if kinds.get(name) == "folder"]


def files_in(root: Path, ending: str) -> list[Path]:
    """The files directly in `root` whose names end so, in any case; sorted, but for hidden ones."""
    names, kinds = _listing(os.fsencode(root))
    return [
        root / os.fsdecode(name) for name in names if name.lower().endswith(os.fsencode(ending)) and name not in kinds
    ]


def _images(folder: bytes, relative: bytes, above: frozenset[bytes], ignored: list[str]) -> Iterator[list[bytes]]:
    """Names of the images below `folder`, in the order of a sorted listing, some at a time; other files are noted.

    `relative` is what the names begin with; `above` holds the real paths of the folders above, to stop at link loops.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    names, kinds = _listing(folder)
    images: list[bytes] = []
    for name in names:
        path, kind = relative + b"/" + name, kinds.get(name)
        if kind == "folder":
            yield images
            images = []
            yield from _images(folder + b"/" + name, path, above | {real}, ignored)
        elif kind is None and name[name.rfind(b".") :].lower() in _SUFFIXES:
            images.append(path)
            if len(images) == _PIECE:
                yield images
                images = []
        else:
            ignored.append(os.fsdecode(path) + (f" ({kind})" if kind else ""))
    yield images


def _listing(folder: bytes) -> tuple[list[bytes], dict[bytes, str]]:
    """The sorted names of what is in a folder, but for hidden entries, and the kinds of those that are not files."""
    names, kinds = [], {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            names.append(entry.name)
            if (kind := _kind(entry)) != "file":
                kinds[entry.name] = kind
    return sorted(names), kinds


def _kind(entry: "os.DirEntry[str] | os.DirEntry[bytes]") -> str:
    """ "folder", "file", or what else it is, in words."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:  # such as a link to itself
        return error.strerror or "cannot be looked at"
    return "a link to nothing" if entry.is_symlink() else "not a file"


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in, and so would hold every other class."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())
