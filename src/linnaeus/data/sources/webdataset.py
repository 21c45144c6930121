"""WebDataset: images in tar shards, on this disk or at any address that fsspec knows.

    shards/                      train-000000.tar train-000001.tar ... val-000000.tar, perhaps classes.json
    'shards-{000000..000127}.tar'
    'https://somewhere/train-{000000..000127}.tar'     's3://bucket/set/*.tar'

A tar file has no table of contents. So each shard is passed over once, and what was found is kept: beside the shard, as
`train-000000.index`, where `linnaeus data pack` wrote it, or in the user's cache.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError
from linnaeus.data.decode import Pixels, decode
from linnaeus.data.sources.base import Bar, Labels, no_bar
from linnaeus.data.sources.columns import Header, Roles, shorten
from linnaeus.data.sources.indexes import look
from linnaeus.data.sources.labels import make_labels
from linnaeus.data.sources.parquet import BY_FILE, split_of
from linnaeus.data.sources.paths import Paths, join, readable
from linnaeus.data.sources.remote import Shard, ShardCache, is_address
from linnaeus.data.sources.rows import Cell, Coded, Gathered, Table, cell
from linnaeus.data.sources.shard_names import class_names, root_of
from linnaeus.data.sources.tar import BLOCK, ShardIndex, is_header_of


@dataclass(frozen=True)
class _Places:
    """Where N images are.

    Attributes:
        shards: the S shards.
        names: what each is called.
        shard: (N,) int32, position in `shards`.
        offsets, sizes: (N,) int64, of the image's bytes in its shard.
        members: their names in their shards.
    """

    shards: tuple[Shard, ...]
    names: tuple[str, ...]
    shard: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    members: Paths

    def take(self, rows: NDArray[np.int64]) -> "_Places":
        return replace(
            self,
            shard=self.shard[rows],
            offsets=self.offsets[rows],
            sizes=self.sizes[rows],
            members=self.members.take(rows),
        )


class ShardSource:
    """Images inside tar shards. No file stays open."""

    def __init__(self, places: _Places, labels: Labels) -> None:
        self._places, self._cache = places, ShardCache()
        self.labels = labels

    def name(self, index: int) -> str:
        """The shard and the name in it, as `train-000000.tar:cat/0001.jpg`."""
        return f"{self._places.names[self._places.shard[index]]}:{os.fsdecode(self._places.members[index])}"

    def names(self, start: int, stop: int) -> list[str]:
        """The names of the images from `start` on, before `stop`."""
        return [self.name(index) for index in range(start, stop)]

    def stamps(self) -> NDArray[np.int64]:
        """(N, 2) bytes of each image, and a number that changes with its shard; -1 for bytes where nothing tells."""
        versions = np.array([_as_number(shard.version) for shard in self._places.shards], np.int64)
        known = np.array([shard.version != "" for shard in self._places.shards])[self._places.shard]
        return np.column_stack([np.where(known, self._places.sizes, -1), versions[self._places.shard]])

    def read(self, index: int) -> bytes:
        """The image file in its shard. The header before it is read too: it tells whether the index is still true."""
        shard = self._places.shards[self._places.shard[index]]
        offset, size = int(self._places.offsets[index]), int(self._places.sizes[index])
        start, count = offset - BLOCK, BLOCK + size
        if is_address(shard.place):
            content = self._cache.read(shard, start, count)
        else:
            with open(shard.place, "rb", buffering=0) as file:  # noqa: PTH123
                file.seek(start)
                content = file.read(count)
        if len(content) < count:
            raise OSError(errno.EIO, "the shard ends before the image does")
        if not is_header_of(content[:BLOCK], size):
            raise OSError(errno.EIO, "the shard has changed since its index was made")
        return content[BLOCK:]

    def decode(self, content: bytes) -> Pixels:
        """Decodes by the policy of `data/decode.py`."""
        return decode(content)


def _as_number(version: str) -> int:
    """The time of change of a file on this disk; of a shard elsewhere a hash of what its server says."""
    if version.isdecimal() and len(version) < 19:  # 64 bits
        return int(version)
    return int.from_bytes(blake2b(version.encode(), digest_size=7).digest())


def open_webdataset(shards: Sequence[str], bar: Bar = no_bar) -> ShardSource:
    """Opens tar shards as one source.

    Splits are those in the names of the shards or of their folders, as in `train-000000.tar` and `test/0000.tar`, where
    there are at least two. A file `classes.json`, a list of names, or `classes.txt`, a name a line, beside the shards
    says what numbers stand for.

    Args:
        shards: their paths or addresses, in order.
        bar: shows how many shards were looked at, and how much of those without an index was passed over.

    Raises:
        RequestError: if a shard does not exist or cannot be reached.
        DataError: if a shard is compressed, no shard holds a sample, or the labels cannot be used.
    """
    looked_at, indexed = look(shards, bar)
    root = root_of(shards)
    names = tuple(readable(shard.removeprefix(root)) for shard in shards)
    indexes = [index for index, _ in indexed]
    notes = [note for _, note in indexed if note]
    if unknown := [name for name, shard in zip(names, looked_at, strict=True) if not shard.version]:
        notes.append(f"nothing tells whether {shorten(unknown, 3)} changed: each training reads it before it begins")
    notes += [f"{name} is {index.end}" for name, index in zip(names, indexes, strict=True) if index.end]
    where = root.rstrip("/") or shards[0]
    if not sum(map(len, indexes)):
        reasons = [f"{name} ({why})" for name, index in zip(names, indexes, strict=True) for why in index.ignored]
        raise DataError(f"{where} has no sample with an image: {shorten(notes + reasons, 3)}")
    places = _Places(
        tuple(looked_at),
        names,
        np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index) for index in indexes]),
        np.concatenate([index.offsets for index in indexes]),
        np.concatenate([index.sizes for index in indexes]),
        join([index.names for index in indexes]),
    )
    ignored = tuple(f"{name}:{what}" for name, index in zip(names, indexes, strict=True) for what in index.ignored)
    return _source(where, places, _cells(indexes, class_names(root), where), (*notes, *_lost(ignored)), ignored)


def _source(
    where: str, places: _Places, cells: tuple[Coded, tuple[str, ...]], notes: tuple[str, ...], ignored: tuple[str, ...]
) -> ShardSource:
    label, classes = cells
    splits = [split_of(Path(name)) for name in places.names]
    has_splits = len(set(splits) - {""}) > 1
    columns = {"label": label}
    if has_splits:
        words = tuple(dict.fromkeys(splits))
        of_shard = np.array([words.index(split) for split in splits], np.int32)
        columns[BY_FILE] = Coded(words, of_shard[places.shard])
    roles = Roles("image", "label", BY_FILE if has_splits else None, split_is_sure=False, others=())
    table = Table(Header(where, tuple(columns)), (), {"label": classes} if classes else {})
    gathered = Gathered(None, columns, np.arange(len(places.shard)))
    source = ShardSource(places, Labels((), np.zeros(0, np.int64), np.zeros(0, np.str_)))
    labels, rows = make_labels(table, roles, gathered, source.name)
    places = places.take(rows) if len(rows) < len(places.shard) else places
    said = f"{where}: {len(rows):,} samples in {len(places.shards):,} shard(s)"
    said += f", split in '{BY_FILE}'" if has_splits else ""
    labels = replace(
        labels,
        ignored=(*ignored, *labels.ignored),
        notes=(said, *notes, *labels.notes[1:]),
        shards=places.shard if is_address(places.shards[0].place) else None,
    )
    return ShardSource(places, labels)


def _cells(indexes: Sequence[ShardIndex], names: tuple[str, ...], where: str) -> tuple[Coded, tuple[str, ...]]:
    """The labels of all samples as one column, and the names of the classes in order, if they are known."""
    values: dict[Cell, int] = {}
    parts = []
    for index in indexes:
        cells = [_named(json.loads(text), names, where) for text in index.cells]
        codes = [values.setdefault(value, len(values)) for value in cells]
        parts.append(np.array(codes, np.int32)[index.codes])
    return Coded(tuple(values), np.concatenate(parts)), names


def _named(label: object, names: tuple[str, ...], where: str) -> Cell:
    """A label as a cell: with names, a number stands for one of them, and -1 for none."""
    if not names or label is None:
        return cell(label)
    if isinstance(label, list):
        return tuple(str(_named(part, names, where)) for part in label)
    if isinstance(label, int):
        if label >= len(names):
            raise DataError(f"{where}: the label {label} is beyond the {len(names)} names of classes, from 0 on")
        return names[label] if label >= 0 else ""
    if label not in names:
        raise DataError(f"{where}: the label '{label}' is none of the names of classes")
    return str(label)


def _lost(ignored: Sequence[str]) -> Iterator[str]:
    if ignored:
        yield f"{len(ignored):,} file(s) or sample(s) in the shards left out; the first is {ignored[0]}"
