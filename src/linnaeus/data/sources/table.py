"""A table that names image files: CSV, TSV or JSONL, with a path, a label and perhaps a split in each row.

Paths are relative to the table's folder, or absolute, or file:// addresses. Text is UTF-8; bytes that are not survive
in paths. The first row of CSV and TSV names the columns. What the labels may look like, and when the task is
multi-label, says `labels.py`.
"""

import codecs
import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources.columns import Columns, Header, Roles, assign
from linnaeus.data.sources.files import FileSource
from linnaeus.data.sources.labels import make_labels
from linnaeus.data.sources.rows import CHUNK, Cell, Table, cell, gather


def open_table(path: Path, columns: Columns) -> FileSource:
    """Reads a table; no image is looked at, so that a missing one is found by the audit, with its reason.

    Raises:
        RequestError: if the file cannot be read, a column is missing or could be several.
        DataError: if the table is damaged or its labels cannot be used, with the row.
    """
    table = TABLES[path.suffix.lower()](path)
    roles = assign(columns, table.header)
    return file_source(table, roles, path.parent, first_row=1 if path.suffix.lower() in _JSON else 2)


def file_source(table: Table, roles: Roles, root: Path, *, first_row: int) -> FileSource:
    """The files that a table names; `first_row` is the number that a person gives to its first row."""
    gathered = gather(table, roles, holds_paths=True)
    paths = gathered.paths
    assert paths is not None

    def name(row: int) -> str:
        return os.fsdecode(paths[row]) or f"row {row + first_row}"

    labels, rows = make_labels(table, roles, gathered, name)
    return FileSource(root, paths if len(rows) == len(paths) else paths.take(rows), labels)


def header_of(path: Path) -> Header:
    """The columns of a table.

    Raises:
        RequestError, DataError: as `open_table` does.
    """
    return TABLES[path.suffix.lower()](path).header


def _lines(path: Path) -> TextIO:
    """The file, open for reading; bytes that are not UTF-8 come as surrogates, which `os.fsencode` gives back."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16: save it as UTF-8")
        return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None


def _csv_table(path: Path) -> Table:
    return _separated(path, ",")


def _tsv_table(path: Path) -> Table:
    return _separated(path, "\t")


def _separated(path: Path, delimiter: str) -> Table:
    with _lines(path) as file:
        first = file.readline()
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"  # what spreadsheets write where the comma is the decimal sign
    chunks = _rows(path, delimiter)
    names = tuple(name.strip() for name in next(chunks, [[]])[0])
    if not any(names):
        raise DataError(f"{path} is empty: its first row names the columns, as in path,label")
    columns = ((len(rows), dict(zip(names, zip(*rows, strict=True), strict=True))) for rows in chunks)
    return Table(Header(str(path), names), columns)


def _rows(path: Path, delimiter: str) -> Iterator[list[list[str]]]:
    """The rows but for blank ones, some at a time and all of one length; first the one that names the columns."""
    number = 1
    with _lines(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            names = next(reader, [])
            yield [names]
            while rows := list(islice(reader, CHUNK)):
                before, number = number, number + len(rows)
                if set(map(len, rows)) != {len(names)}:
                    rows = list(_checked(rows, len(names), f"{path} row {{}}", before))
                if rows:
                    yield rows
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: {error}") from None


def _checked(rows: list[list[str]], width: int, where: str, before: int) -> Iterator[list[str]]:
    """The rows that are not blank, if all are long enough and not too long; `before` rows come before them."""
    for number, row in enumerate(rows, before + 1):
        if len(row) not in (0, width):
            message = "has {} cells, and the first row {}. A cell with the separator in it needs quotes"
            raise DataError(f"{where.format(number)} {message.format(len(row), width)}")
        if row:
            yield row


def _json_table(path: Path) -> Table:
    chunks = _objects(path)
    first = next(chunks, [])
    names = tuple(dict.fromkeys(name for row in first for name in row))
    columns = ((len(rows), _cells(names, rows)) for rows in chain([first] if first else [], chunks))
    return Table(Header(str(path), names), columns)


def _objects(path: Path) -> Iterator[list[dict[str, object]]]:
    before = 0
    with _lines(path) as file:
        while lines := list(islice(file, CHUNK)):
            filled = [line for line in lines if not line.isspace()]
            try:
                rows = json.loads(f"[{','.join(filled)}]")  # much faster than a line at a time
            except (ValueError, RecursionError):
                rows = []
            if len(rows) != len(filled) or any(type(row) is not dict for row in rows):
                rows = list(_one_by_one(lines, before, path))
            before += len(lines)
            if rows:
                yield rows


def _one_by_one(lines: list[str], before: int, path: Path) -> Iterator[dict[str, object]]:
    """The objects in some lines, to say which line is none."""
    for number, line in enumerate(lines, before + 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f'{path} line {number} is not an object, as in {{"path": "1.jpg", "label": "cat"}}')
        yield row


def _cells(names: Sequence[str], rows: list[dict[str, object]]) -> dict[str, Sequence[Cell]]:
    columns: dict[str, Sequence[Cell]] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        # A column of objects says nothing to us. If it is asked for, its absence is noticed.
        with suppress(TypeError):
            columns[name] = [value if type(value) is str else cell(value) for value in values]
    return columns


TABLES = {".csv": _csv_table, ".tsv": _tsv_table, ".jsonl": _json_table, ".ndjson": _json_table}
"""How a file of each ending is read."""
_JSON = (".jsonl", ".ndjson")
