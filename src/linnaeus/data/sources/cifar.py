"""CIFAR-10 and CIFAR-100 as their authors publish them: binary files, or Python pickles that are parsed, not executed.

https://www.cs.toronto.edu/~kriz/cifar.html: 32 x 32 colour images, channel by channel. The pickles were written by
Python 2, as a dictionary of the labels (a list of numbers), the pixels (one array) and the names.
"""

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources.arrays import ArraySource
from linnaeus.data.sources.base import Labels

_PIXELS = 3 * 32 * 32
_WHOLE_NUMBERS = ("BININT1", "BININT2", "BININT", "INT", "LONG1", "LONG")


@dataclass(frozen=True)
class Layout:
    """The files of one edition.

    Attributes:
        train, test: names of the files with images; CIFAR has one for the test.
        names: the file with the names of the classes.
        names_key: what the names are called in it, where it is a pickle.
        labels_key: what the labels are called, where the files are pickles.
        label_bytes: bytes of label before each image, where they are not; the last is the label.
    """

    train: tuple[str, ...]
    test: str
    names: str
    names_key: str = ""
    labels_key: str = ""
    label_bytes: int = 0


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = {
    "cifar-10-batches-bin": Layout(
        tuple(f"{name}.bin" for name in _FIVE), "test_batch.bin", "batches.meta.txt", label_bytes=1
    ),
    "cifar-10-batches-py": Layout(_FIVE, "test_batch", "batches.meta", names_key="label_names", labels_key="labels"),
    "cifar-100-binary": Layout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
    "cifar-100-python": Layout(("train",), "test", "meta", names_key="fine_label_names", labels_key="fine_labels"),
}
"""The usual name of the folder of each edition, and what lies in it."""


def holds_cifar(folder: Path) -> bool:
    """Whether a folder holds an edition, whatever the folder's name, or most of it."""
    return _layout_of(folder) is not None


def _layout_of(folder: Path) -> Layout | None:
    found = (one for one in LAYOUTS.values() if all((folder / file).is_file() for file in (one.names, one.test)))
    return next(found, None)


def open_cifar(folder: Path) -> ArraySource:
    """Reads all images into memory.

    Raises:
        RequestError: if a file cannot be read.
        DataError: if the folder holds no edition, a file is absent or damaged.
    """
    layout = _layout_of(folder)
    if layout is None:
        raise DataError(f"{folder} holds no edition of CIFAR: expected the files of one of {', '.join(LAYOUTS)}")
    files = (*layout.train, layout.test)
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise DataError(f"{folder} lacks {', '.join(absent)}: fetch the set again")
    parts = [_pickled(folder / file, layout) if layout.labels_key else _binary(folder / file, layout) for file in files]
    targets = np.concatenate([labels for labels, _ in parts]).astype(np.int64)
    classes = _class_names(folder / layout.names, layout)
    if targets.max(initial=0) >= len(classes):
        raise DataError(f"{folder} has the label {targets.max()}, and {layout.names} names {len(classes)} classes")
    test = len(parts[-1][0])
    splits = np.repeat(["train", "test"], [len(targets) - test, test])
    images = np.empty((len(targets), 32, 32, 3), np.uint8)
    np.concatenate([p.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for _, p in parts], out=images)  # CHW -> HWC
    return ArraySource(images, Labels(classes, targets, splits))


def _binary(file: Path, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(N,) labels and (N, 3072) pixels of a binary file."""
    content, row = _read(file), layout.label_bytes + _PIXELS
    if len(content) % row or not content:
        raise DataError(f"{file} has {len(content)} bytes, not whole rows of {row}: fetch the set again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, row)
    return rows[:, layout.label_bytes - 1], rows[:, layout.label_bytes :]


def _pickled(file: Path, layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(N,) labels and (N, 3072) pixels of a pickle: the whole numbers after the labels' name, and the longest text."""
    labels: list[int] = []
    key, pixels, is_fortran, flag = b"", b"", False, False
    for operation, argument in _operations(file):
        if isinstance(argument, bytes):
            key = argument
            if len(argument) > len(pixels):
                pixels, is_fortran = argument, flag
        elif operation in _WHOLE_NUMBERS and isinstance(argument, int) and key == layout.labels_key.encode():
            labels.append(argument)
        flag = operation == "NEWTRUE"  # numpy's word on the order of an array, directly before its bytes
    if len(pixels) != len(labels) * _PIXELS or not labels or not 0 <= min(labels) <= max(labels) <= 255:
        raise DataError(f"{file} has {len(labels)} labels and {len(pixels)} bytes of pixels: fetch the set again")
    array = np.frombuffer(pixels, np.uint8).reshape(len(labels), _PIXELS, order="F" if is_fortran else "C")
    return np.array(labels, np.uint8), array


def _class_names(file: Path, layout: Layout) -> tuple[str, ...]:
    if not layout.names_key:
        return tuple(_read(file).decode("utf-8", "backslashreplace").split())
    names: list[str] = []
    is_in_list = False
    for operation, argument in _operations(file):
        if isinstance(argument, bytes):
            if is_in_list:
                names.append(argument.decode("utf-8", "backslashreplace"))
            is_in_list = is_in_list or argument == layout.names_key.encode()
        elif operation == "APPENDS":
            is_in_list = False
    return tuple(names)


def _operations(file: Path) -> Iterator[tuple[str, object]]:
    """The instructions of a pickle and their arguments, texts as bytes. They are read; nothing is executed."""
    try:
        for operation, argument, _ in pickletools.genops(_read(file)):
            yield operation.name, argument.encode("latin-1") if isinstance(argument, str) else argument
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}): fetch the set again") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}") from None
