"""Parquet, one file or many: rows that name image files, or that hold the images, as Hugging Face data sets do."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels, decode
from linnaeus.data.sources import arrow
from linnaeus.data.sources.base import Bar, Labels, no_bar
from linnaeus.data.sources.columns import Columns, Roles, assign
from linnaeus.data.sources.files import FileSource
from linnaeus.data.sources.folder import files_in, split_folders
from linnaeus.data.sources.labels import SPLITS, make_labels
from linnaeus.data.sources.rows import Cell, Table, gather
from linnaeus.data.sources.shards import GroupCache, Shards
from linnaeus.data.sources.table import file_source

BY_FILE = "the names of the files"
"""What stands for a split column where files are named for splits."""
_LARGE_GROUP = 64 << 20


class ParquetSource:
    """Images inside Parquet files. No file stays open."""

    def __init__(self, shards: Shards, column: str, rows: NDArray[np.int64], labels: Labels) -> None:
        """`column`: the one that holds the images; `rows`: (N,), the row of each image."""
        self._shards, self._column, self._rows = shards, column, rows
        self._groups = GroupCache()
        self.labels = labels

    def name(self, index: int) -> str:
        """The file and the number of the row in it, as `train-00000-of-00002.parquet:17`."""
        return self._shards.name(int(self._rows[index]))

    def names(self, start: int, stop: int) -> list[str]:
        """The names of the images from `start` on, before `stop`."""
        return [self.name(index) for index in range(start, stop)]

    def stamps(self) -> NDArray[np.int64]:
        """(N, 2) length and time of change of the Parquet file of each image; -1 and 0 where there is none any more."""
        return self._shards.stamps()[self._shards.files_of(self._rows)]

    def read(self, index: int) -> bytes:
        """The image file in the row."""
        group, position = self._shards.find(int(self._rows[index]))
        value = self._groups.get(self._shards, group, self._column)[position].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise OSError(errno.ENODATA, "no image in this row")
        return content

    def decode(self, content: bytes) -> Pixels:
        """Decodes by the policy of `data/decode.py`."""
        return decode(content)


def open_parquet(files: Sequence[Path], root: Path, columns: Columns, bar: Bar = no_bar) -> ParquetSource | FileSource:
    """Opens Parquet files as one source.

    Splits are those of a split column; without one, those in the names of the files or of their folders, as in
    `train-00000-of-00002.parquet` and `test/0000.parquet`. Paths are relative to the file that they stand in.

    Args:
        files: of one schema, in order.
        root: the folder that the images' names begin at.
        columns: the user's word.
        bar: shows how many of the rows were read.

    Raises:
        RequestError: if pyarrow is missing, a file cannot be read, a column is missing or could be several.
        DataError: if a file is damaged, the files differ, or the labels cannot be used.
    """
    shards = Shards(files, root)
    schema, features = shards.schema, arrow.features_of(shards.schema)
    header = arrow.header_of(str(files[0] if len(files) == 1 else root), schema, features)
    roles = assign(columns, header)
    if roles.split is None and len({split_of(file.relative_to(root)) for file in files} - {""}) > 1:
        roles = replace(roles, split=BY_FILE)
    kind = schema.field(roles.path).type
    holds_paths = not (arrow.is_image_struct(kind) or arrow.is_bytes(kind))
    names = arrow.class_names(features)
    with bar("reading labels", shards.num_rows, unit="rows") as advance:
        table = Table(header, _chunks(shards, roles, names, advance, holds_paths=holds_paths), names)
        if holds_paths:
            return file_source(table, roles, root, first_row=0)
        gathered = gather(table, roles, holds_paths=False)
    labels, rows = make_labels(table, roles, gathered, shards.name)
    if shards.largest_group > _LARGE_GROUP:
        size = f"row groups of up to {shards.largest_group >> 20} MiB, each read whole for any image in it"
        labels = replace(labels, notes=(*labels.notes, f"{size}: slow. Write groups of 100 images"))
    inner = f"{roles.path}.bytes" if arrow.is_image_struct(kind) else roles.path
    return ParquetSource(shards, inner, rows, labels)


def parquet_files(root: Path) -> list[Path]:
    """The Parquet files of a folder: in it, in its `data`, and in the folders of its splits; sorted."""
    places = [root, root / "data", *(folder for _, folder in split_folders(root) if folder != root)]
    return sorted(file for place in places if place.is_dir() for file in files_in(place, ".parquet"))


def split_of(file: Path) -> str:
    """The split in the name of a file or of a folder above it, "" if there is none; a path relative to the set."""
    words = (re.split(r"[-_.]", part)[0].lower() for part in reversed(file.parts))
    return next((SPLITS[word] for word in words if SPLITS.get(word)), "")


def _chunks(
    shards: Shards,
    roles: Roles,
    names: Mapping[str, Sequence[str]],
    advance: Callable[[int], None],
    *,
    holds_paths: bool,
) -> Iterator[tuple[int, dict[str, list[Cell]]]]:
    wanted = [roles.label, roles.split, *roles.others, roles.path if holds_paths else None]
    columns = [field.name for field in shards.schema if field.name in wanted and arrow.holds_cells(field.type)]
    for file, batch in shards.batches(columns):
        chunk = arrow.cells(batch, names, file)
        if roles.split == BY_FILE:
            chunk[BY_FILE] = [split_of(Path(file))] * batch.num_rows
        folder = os.path.dirname(file)  # noqa: PTH120  # a text, for the paths below it
        if holds_paths and folder and roles.path in chunk:
            chunk[roles.path] = [_below(folder, path) for path in chunk[roles.path]]
        yield batch.num_rows, chunk
        advance(batch.num_rows)


def _below(folder: str, path: Cell) -> Cell:
    return f"{folder}/{path}" if isinstance(path, str) and path and "://" not in path and path[0] != "/" else path
