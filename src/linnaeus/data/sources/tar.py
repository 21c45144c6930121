"""One tar shard of a WebDataset: which of its bytes are which sample, found in one pass over the headers.

The members of one name, up to the first dot of its last part, are a sample: `cat/0001.jpg` and `cat/0001.cls`.

| member | what it is |
|---|---|
| one ending, and that of an image: `.jpg .jpeg .png .webp` ... | the image |
| `.cls` | the label: a number, or a text |
| `.json` | the label under the key "label": a number, a text, or a list of them |
| anything else | passed over |

Nothing is unpacked, so that absolute names and names with `..` are names like others. Links and files with holes have
no bytes of their own in the shard; they are passed over with a reason.
"""

import json
import os
import tarfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.core.errors import DataError, EnvironmentFault
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.data.decode import EXTENSIONS
from linnaeus.data.sources.paths import PathList
from linnaeus.data.sources.rows import cell

KIND, VERSION = "linnaeus-shard-index", 1
BLOCK = 512  # bytes of a header; also what all members are padded to
_IMAGES = frozenset(ending.removeprefix(".") for ending in EXTENSIONS)
_LABELS = ("cls", "json")
_LABEL_BYTES = 1 << 20
_TOLD = 1 << 20  # bytes between two words on how far a pass is: a word a member would cost as much as the member
_NO_LABEL = "null"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
# What Python's tarfile was seen to raise on damaged shards.
_TAR_FAILS = (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class ShardIndex:
    """The N samples of one shard, in the order in which they begin.

    Attributes:
        names: of the images inside the shard.
        offsets, sizes: (N,) int64, where the bytes of the images are.
        cells: the different labels as JSON; `null` for a sample without one.
        codes: (N,) int32, positions in `cells`.
        ignored: what was not taken, with reasons.
        end: why what comes after the last sample is lost, or "".
    """

    names: PathList
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    cells: tuple[str, ...]
    codes: NDArray[np.int32]
    ignored: tuple[str, ...]
    end: str

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass
class _Sample:
    """What is known of a sample so far; the label as JSON, and the ending of the member that gave it."""

    name: str = ""
    offset: int = 0
    size: int = 0
    label: str = _NO_LABEL
    label_from: str = ""
    others: list[str] = field(default_factory=list)


def scan(file: IO[bytes], progress: Callable[[int], None] | None = None) -> ShardIndex:
    """Reads all headers and labels of a shard, and none of its images.

    A shard that was cut off or is damaged gives the samples before the damage, and says so in `end`.

    Args:
        file: opened for reading, and able to seek.
        progress: called with the number of bytes passed over since the last call.

    Raises:
        DataError: if it is compressed.
    """
    start = file.read(2)
    if start in _COMPRESSED:
        raise DataError(f"is compressed by {_COMPRESSED[start]}, and so no image in it can be reached: unpack it")
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    samples: dict[str, _Sample] = {}
    ignored: list[str] = []
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            try:
                for member in _members(tar, progress):
                    _note(member, file, samples, ignored)
                end = _end(file, tar.offset)
            except _TAR_FAILS as error:
                end = f"cut off or damaged at byte {tar.offset:,} ({error})"
    except _TAR_FAILS as error:
        end = f"no tar file ({error})"
    return _index(samples, length, ignored, end)


def _members(tar: tarfile.TarFile, progress: Callable[[int], None] | None) -> Iterator[tarfile.TarInfo]:
    """The members one at a time; tarfile itself keeps all that it has seen."""
    told = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # typeshed does not know it
        if tar.offset <= member.offset:
            raise tarfile.ReadError("a member of negative size")
        yield member
        if progress is not None and tar.offset - told >= _TOLD:
            progress(tar.offset - told)
            told = tar.offset


def _end(file: IO[bytes], offset: int) -> str:
    """What is wrong where the headers stop: tarfile takes any damage there for the end."""
    file.seek(offset)
    block = file.read(BLOCK)
    if not block:
        return "without the mark of its end: perhaps cut off"
    return f"damaged at byte {offset:,}" if any(block) else ""


def _note(member: tarfile.TarInfo, file: IO[bytes], samples: dict[str, _Sample], ignored: list[str]) -> None:
    folder, slash, base = member.name.rpartition("/")
    stem, _, ending = base.partition(".")
    if member.isdir():
        return
    reason = _unfit(member, stem)
    if reason:
        ignored.append(f"{member.name} ({reason})")
        return
    sample = samples.setdefault(f"{folder}{slash}{stem}", _Sample())
    ending = ending.lower()
    if ending in _IMAGES:
        if sample.name:
            ignored.append(f"{member.name} (a second image of one sample, whose first is {sample.name})")
            return
        sample.name, sample.offset, sample.size = member.name, member.offset_data, member.size
    elif ending not in _LABELS:
        sample.others.append(f".{ending}")
    elif ending == sample.label_from:
        ignored.append(f"{member.name} (a second label of one sample)")
    elif sample.label_from != "cls":  # which goes before .json
        try:
            sample.label, sample.label_from = _label(file, member, ending), ending
        except ValueError as error:
            ignored.append(f"{member.name} ({error})")


def _unfit(member: tarfile.TarInfo, stem: str) -> str:
    if member.islnk() or member.issym():
        return f"a link to {member.linkname}, which is not followed"
    if not member.isfile():
        return "not a file"
    if member.issparse():
        return "a file with holes, stored in pieces: pack it without them"
    return "" if stem else "a hidden file"


def _label(file: IO[bytes], member: tarfile.TarInfo, ending: str) -> str:
    """The label of a sample as JSON.

    Raises:
        ValueError: with the reason, if it is none.
    """
    if member.size > _LABEL_BYTES:
        raise ValueError(f"{member.size:,} bytes are too many for a label")
    file.seek(member.offset_data)
    content = file.read(member.size)
    if len(content) < member.size:
        raise ValueError("cut off with the end of the shard")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if ending == "cls":
        is_number = text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 19
        return json.dumps(int(text) if is_number else text) if text else _NO_LABEL
    try:
        about = json.loads(text)
        label = about.get("label") if isinstance(about, dict) else None
        cell(label)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    except TypeError:
        raise ValueError("its label is an object, not a text, a number or a list of them") from None
    return json.dumps(label)


def _index(samples: Mapping[str, _Sample], length: int, ignored: list[str], end: str) -> ShardIndex:
    """The samples that have an image, all of whose bytes are there."""
    whole = []
    for key, sample in samples.items():
        if not sample.name:
            ends = ", ".join(sample.others)
            ignored.append(f"{key} (no image; its file names end in {ends})" if ends else f"{key} (no image)")
        elif sample.offset + sample.size > length:
            ignored.append(f"{sample.name} (cut off with the end of the shard)")
        else:
            whole.append(sample)
    names = PathList()
    names.extend_texts([sample.name for sample in whole])
    cells = {label: code for code, label in enumerate(dict.fromkeys(sample.label for sample in whole))}
    return ShardIndex(
        names,
        np.array([sample.offset for sample in whole], np.int64),
        np.array([sample.size for sample in whole], np.int64),
        tuple(cells),
        np.array([cells[sample.label] for sample in whole], np.int32),
        tuple(ignored),
        end,
    )


def is_header_of(block: bytes, size: int) -> bool:
    """Whether 512 bytes are the header of a file of `size` bytes: tells an index that is not of this shard."""
    number = block[124:136]
    if number[:1] >= b"\x80":  # too large for the octal digits, and written in binary
        return True
    try:
        return int(number.strip(b"\0 ") or b"-1", 8) == size
    except ValueError:
        return False


def save_index(path: Path, index: ShardIndex, stamp: str) -> None:
    """Writes the index of a shard; `stamp` tells which version of the shard it is of.

    Raises:
        OSError: if `path` cannot be written.
    """
    arrays = {
        "names": np.array(index.names.blob, np.uint8),
        "lengths": np.array(index.names.lengths, np.int64),
        "offsets": index.offsets,
        "sizes": index.sizes,
        "codes": index.codes,
    }
    about: dict[str, Any] = {"stamp": stamp, "cells": index.cells, "ignored": index.ignored, "end": index.end}
    save_tensors(path, KIND, VERSION, {name: torch.from_numpy(values) for name, values in arrays.items()}, about)


def load_index(path: Path, stamp: str) -> ShardIndex | None:
    """What `save_index` wrote; None if it is of another version of the shard.

    Raises:
        RequestError: if there is none, or it is no index.
        EnvironmentFault: if it is damaged or of a newer version than this one can read.
    """
    tensors, about = load_tensors(path, KIND, VERSION)
    if about["stamp"] != stamp:
        return None
    names = PathList()
    names.blob = bytearray(tensors["names"].numpy().tobytes())
    names.lengths = array("q", tensors["lengths"].numpy().tobytes())
    offsets, sizes, codes = (tensors[name].numpy() for name in ("offsets", "sizes", "codes"))
    cells, ignored = tuple(about["cells"]), tuple(about["ignored"])
    fits = len(offsets) == len(sizes) == len(codes) == len(names) and sum(names.lengths) == len(names.blob)
    if not fits or (len(codes) and not 0 <= codes.min() <= codes.max() < len(cells)):
        raise EnvironmentFault(f"{path} is damaged: its parts do not fit each other")
    return ShardIndex(names, offsets, sizes, cells, codes, ignored, about["end"])
