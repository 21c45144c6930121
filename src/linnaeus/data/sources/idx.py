"""MNIST's binary format, IDX: `train-images-idx3-ubyte` with `train-labels-idx1-ubyte`, and `t10k-...` for the test.

A file begins with two zero bytes, the type of its numbers (8 for uint8) and the number of its axes; then come the
lengths of the axes, big-endian int32, and the numbers (http://yann.lecun.com/exdb/mnist). It may be packed with gzip.
"""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources.arrays import ArraySource
from linnaeus.data.sources.base import Labels
from linnaeus.data.sources.folder import files_in

_IMAGES = re.compile(r"(?:.*[-_.])?(train|t10k|test)[-_.]images[-_.]idx3[-_.]ubyte(?:\.gz)?")
_UINT8 = 8


def holds_idx(folder: Path) -> bool:
    """Whether a folder holds images in this format."""
    return bool(_image_files(folder))


def is_complete(folder: Path) -> bool:
    """Whether a folder holds images for training and for the test."""
    return set(_image_files(folder)) == {"train", "test"}


def open_idx(folder: Path, classes: tuple[str, ...] = ()) -> ArraySource:
    """Reads all images into memory; `t10k` and `test` are the test.

    Args:
        folder: of the files, packed or not.
        classes: names of the labels 0, 1, ...; by default the numbers themselves.

    Raises:
        RequestError: if a file cannot be read.
        DataError: if the folder holds several sets, a file is absent or damaged, or labels do not fit.
    """
    images: list[NDArray[np.uint8]] = []
    targets, splits = [], []
    for split, file in _image_files(folder).items():
        pixels, labels = read_idx(file, axes=3), read_idx(_labels_of(file), axes=1)
        if len(pixels) != len(labels):
            raise DataError(f"{file} has {len(pixels)} images, and its labels are {len(labels)}")
        if images and pixels.shape[1:] != images[0].shape[1:]:
            raise DataError(
                f"{file} has images of {pixels.shape[1:]} pixels, and those for training {images[0].shape[1:]}"
            )
        images.append(pixels)
        targets.append(labels.astype(np.int64))
        splits.append(np.full(len(labels), split))
    target = np.concatenate(targets)
    names = classes or tuple(str(number) for number in range(int(target.max(initial=0)) + 1))
    if len(target) and target.max() >= len(names):
        raise DataError(f"{folder} has the label {target.max()}, of {len(names)} classes")
    return ArraySource(np.concatenate(images)[..., None], Labels(names, target, np.concatenate(splits)))


def read_idx(file: Path, *, axes: int) -> NDArray[np.uint8]:
    """The array in one file.

    Raises:
        RequestError: if it cannot be read.
        DataError: if it is damaged, or no array of uint8 with so many axes.
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file} is damaged ({error}): fetch it again") from None
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}") from None
    if content[:4] != bytes([0, 0, _UINT8, axes]) or len(content) < 4 + 4 * axes:
        raise DataError(f"{file} is not IDX with {axes} axes of uint8: it begins with {content[:4].hex(' ')}")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    expected = 4 + 4 * axes + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{file} has {len(content)} bytes, and its head promises {expected}: fetch it again")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _image_files(folder: Path) -> dict[str, Path]:
    """Split -> its images; the unpacked file where both are there."""
    found: dict[str, Path] = {}
    for file in (*files_in(folder, "ubyte"), *files_in(folder, "ubyte.gz")):
        match = _IMAGES.fullmatch(file.name)
        if match is None:
            continue
        split = "train" if match[1] == "train" else "test"
        if split not in found:
            found[split] = file
        elif file.name != f"{found[split].name}.gz":
            raise DataError(f"{folder} holds several sets: {found[split].name} and {file.name}. Give each a folder")
    return dict(sorted(found.items(), reverse=True))  # train first


def _labels_of(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    found = [file for file in (images.with_name(name), images.with_name(f"{name}.gz")) if file.is_file()]
    if not found:
        raise DataError(f"{images} has no {name} or {name}.gz beside it")
    return found[0]
