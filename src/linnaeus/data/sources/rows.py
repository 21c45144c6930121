"""The rows of a table, gathered column by column into flat arrays: a million rows cost little and take seconds."""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError
from linnaeus.data.sources.columns import Header, Roles
from linnaeus.data.sources.paths import PathList, Paths, join

CHUNK = 1 << 14  # rows at a time
FEW = 8  # values; among them fit all the ways to write 0 and 1
Cell = str | tuple[str, ...]
"""A text, "" where there is none; or a list of texts, where the format has lists."""


@dataclass(frozen=True)
class Table:
    """A table that is being read.

    Attributes:
        header: its columns.
        chunks: its rows, at most `CHUNK` at a time, as (how many, column -> cells). A column is absent where it holds
            what is no cell.
        class_names: column -> the names of its classes in the order of the file itself, where it has one.
    """

    header: Header
    chunks: Iterable[tuple[int, Mapping[str, Sequence[Cell]]]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Coded:
    """One column of N cells.

    Attributes:
        values: the different cells, in the order in which they first appear.
        codes: (N,) int32, positions in `values`.
    """

    values: tuple[Cell, ...]
    codes: NDArray[np.int32]

    def counts(self) -> list[int]:
        """How many rows have each value."""
        counts: list[int] = np.bincount(self.codes, minlength=len(self.values)).tolist()
        return counts

    def take(self, rows: NDArray[np.int64]) -> "Coded":
        """The cells at `rows`, without the values that none of them has."""
        if len(rows) == len(self.codes):
            return self
        used, codes = np.unique(self.codes[rows], return_inverse=True)
        return Coded(tuple(self.values[code] for code in used.tolist()), codes.astype(np.int32))


@dataclass(frozen=True)
class Gathered:
    """All N rows of a table.

    Attributes:
        paths: of the images; None where the table holds the images themselves.
        columns: the others. A column whose cells hardly repeat, such as a number of the row or a caption, groups
            nothing and is left out: at the end of a chunk it had more than `FEW` values, and more than a half as many
            as rows.
        first: (N,) int64, the first row with the same path.
    """

    paths: Paths | None
    columns: dict[str, Coded]
    first: NDArray[np.int64]


class _Coder:
    """Collects one column. `any_number` keeps it however little its cells repeat."""

    def __init__(self, *, any_number: bool) -> None:
        self._any_number = any_number
        self._codes: dict[Cell, int] | None = {}
        self._rows = array("i")

    def extend(self, cells: Sequence[Cell]) -> None:
        codes = self._codes
        if codes is None:
            return
        for cell in dict.fromkeys(cells):
            codes.setdefault(cell, len(codes))
        self._rows.extend([codes[cell] for cell in cells])
        if not self._any_number and len(codes) > max(FEW, len(self._rows) // 2):
            self._codes, self._rows = None, array("i")

    def coded(self) -> Coded | None:
        return None if self._codes is None else Coded(tuple(self._codes), np.array(self._rows, np.int32))


def gather(table: Table, roles: Roles, *, holds_paths: bool) -> Gathered:
    """Reads a table to its end.

    Raises:
        DataError: if it has no rows, a path is an address on the web, or as reading it raises.
    """
    needed = (roles.label, roles.split)
    names = [name for name in (*needed, *roles.others) if name is not None]
    coders = {name: _Coder(any_number=name in needed) for name in names}
    paths, hashes, rows = PathList(), array("q"), 0
    for number, chunk in table.chunks:
        rows += number
        for name in coders.keys() & chunk.keys():
            coders[name].extend(chunk[name])
        if holds_paths:
            _check_present(chunk, roles.path, table.header.where)
            texts = _local(chunk[roles.path], table.header.where, roles.path)
            paths.extend_texts(texts)
            hashes.extend(map(hash, texts))
        for need in needed:
            _check_present(chunk, need, table.header.where)
    if not rows:
        raise DataError(f"{table.header.where} has no rows")
    columns = {name: coded for name, coder in coders.items() if (coded := coder.coded()) and len(coded.codes) == rows}
    if not holds_paths:
        return Gathered(None, columns, np.arange(rows))
    # By a 64-bit hash: of a million different paths two have the same by chance once in 37 million tables.
    _, first, same = np.unique(np.frombuffer(hashes, np.int64), return_index=True, return_inverse=True)
    return Gathered(join([paths]), columns, first[same])


def _check_present(chunk: Mapping[str, Sequence[Cell]], name: str | None, where: str) -> None:
    if name is not None and name not in chunk:
        raise DataError(f"{where}: the column '{name}' holds objects, not texts, numbers or lists of them")


def _local(cells: Sequence[Cell], where: str, column: str) -> list[str]:
    """The paths in some cells, with those that file:// addresses mean."""
    texts = [text for text in cells if isinstance(text, str)]
    if len(texts) < len(cells):
        raise DataError(f"{where}: the column '{column}' holds lists, not paths")
    if any("://" in text for text in texts):
        return [_path_of(text, where) for text in texts]
    return texts


def _path_of(text: str, where: str) -> str:
    if "://" not in text:
        return text
    parts = urlsplit(text)
    if parts.scheme.lower() == "file" and parts.netloc in ("", "localhost"):
        return url2pathname(parts.path)
    raise DataError(f"{where} names {text}: images on the web are not fetched; fetch them first and name the files")


def cell(value: object) -> Cell:
    """A value of JSON or Parquet as a cell.

    Raises:
        TypeError: for a mapping, or lists in lists.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else "" if np.isnan(value) else str(value)
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, list | tuple):
        parts = [cell(part) for part in value]
        if all(isinstance(part, str) for part in parts):
            return tuple(str(part) for part in parts)
    if isinstance(value, Mapping | list | tuple):
        raise TypeError(f"{type(value).__name__} in a cell")
    return str(value)
