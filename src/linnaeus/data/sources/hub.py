"""Data sets on the Hugging Face hub, `hf:owner/name` or `hf:owner/name:config`, through the `datasets` library.

The library fetches a set once and keeps it in its cache, as Arrow files that are mapped into memory. From there it is
read without a network.
"""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import RequestError
from linnaeus.data.decode import Pixels, decode
from linnaeus.data.sources import arrow
from linnaeus.data.sources.base import Labels
from linnaeus.data.sources.columns import Columns, Roles, assign, shorten
from linnaeus.data.sources.labels import SPLITS, make_labels
from linnaeus.data.sources.rows import CHUNK, Cell, Table, gather

PREFIX = "hf:"
BY_PART = "the parts of the set"
"""What stands for a split column where the set has parts for splits."""


class HubSource:
    """Images of a Hugging Face data set."""

    def __init__(self, parts: Mapping[str, Any], column: str, rows: NDArray[np.int64], labels: Labels) -> None:
        """`parts`: name -> `datasets.Dataset`; `column`: of the images; `rows`: (N,), counted through all parts."""
        self._names, self._parts = tuple(parts), [_undecoded(part, column) for part in parts.values()]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._rows = rows
        self.labels = labels

    def name(self, index: int) -> str:
        """The part and the number of the row in it, as `train:17`."""
        part, row = _place(self._starts, int(self._rows[index]))
        return f"{self._names[part]}:{row}"

    def names(self, start: int, stop: int) -> list[str]:
        """The names of the images from `start` on, before `stop`."""
        return [self.name(index) for index in range(start, stop)]

    def stamps(self) -> NDArray[np.int64]:
        """(N, 2) length and a number for the Arrow files of each image's part; -1 and 0 where nothing tells."""
        stamps = np.array([_stamp(part) for part in self._parts], np.int64)
        return stamps[np.searchsorted(self._starts, self._rows, "right") - 1]

    def read(self, index: int) -> bytes:
        """The image file in the row, or that the row names."""
        part, row = _place(self._starts, int(self._rows[index]))
        (value,) = self._parts[part][row].values()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None and isinstance(value, dict) and value["path"]:
            return Path(value["path"]).read_bytes()
        if not isinstance(content, bytes):
            raise OSError(errno.ENODATA, "no image in this row")
        return content

    def decode(self, content: bytes) -> Pixels:
        """Decodes by the policy of `data/decode.py`."""
        return decode(content)


def open_hub(name: str, columns: Columns) -> HubSource:
    """Opens `owner/name` or `owner/name:config`; parts called train, validation and test are its splits.

    Raises:
        RequestError: if the library is missing, the set is neither in its cache nor reachable, a column is missing or
            could be several.
        DataError: if the labels cannot be used.
    """
    source = source_of(f"{PREFIX}{name}", _load(name), columns)
    if (source.stamps()[:, 0] < 0).any():
        note = "nothing tells whether its images have changed: each training reads them all before it begins"
        source.labels = replace(source.labels, notes=(*source.labels.notes, note))
    return source


def source_of(where: str, parts: Mapping[str, Any], columns: Columns) -> HubSource:
    """A loaded set as a source; `parts`: name -> `datasets.Dataset`, of the same columns."""
    known = {part: SPLITS.get(part.lower(), "") for part in parts}
    has_splits = len(set(known.values()) - {""}) > 1
    used = {part: parts[part] for part in parts if known[part] or not has_splits}
    first = next(iter(used.values()))
    features, schema = first.features.to_dict(), first.features.arrow_schema
    header = arrow.header_of(where, schema, features)
    roles = assign(columns, header)
    kind = schema.field(roles.path).type
    if not (arrow.is_image_struct(kind) or arrow.is_bytes(kind)):
        raise RequestError(f"{where}: the column '{roles.path}' holds {kind}, not images")
    roles = replace(roles, split=BY_PART) if roles.split is None and has_splits else roles
    names = arrow.class_names(features)
    table = Table(header, _chunks(used, known, roles, names), names)
    starts = np.cumsum([0, *map(len, used.values())])

    def name(row: int) -> str:
        part, number = _place(starts, row)
        return f"{tuple(used)[part]}:{number}"

    labels, rows = make_labels(table, roles, gather(table, roles, holds_paths=False), name)
    if len(used) < len(parts):
        unused = f"the part(s) {shorten([part for part in parts if part not in used])} are none of train, val and test"
        labels = replace(labels, notes=(*labels.notes, f"{unused}: left out"))
    return HubSource(used, roles.path, rows, labels)


def _load(name: str) -> Mapping[str, Any]:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError(f"{PREFIX}{name} needs the datasets library: pip install 'linnaeus[hub]'") from None
    repository, _, config = name.partition(":")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repository):
        raise RequestError(
            f"'{PREFIX}{name}' is no set on the hub: expected {PREFIX}owner/name or {PREFIX}owner/name:config"
        )
    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(repository, config or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(
            f"{PREFIX}{name} is neither in the cache of the datasets library nor to be had from the hub: {reason}"
        ) from None
    return loaded


def _chunks(
    parts: Mapping[str, Any], splits: Mapping[str, str], roles: Roles, names: Mapping[str, Sequence[str]]
) -> Iterator[tuple[int, dict[str, list[Cell]]]]:
    for name, part in parts.items():
        schema = part.features.arrow_schema
        wanted = [c for c in (roles.label, roles.split, *roles.others) if c in schema.names]
        columns = [c for c in wanted if arrow.holds_cells(schema.field(c).type)]
        for table in part.select_columns(columns).with_format("arrow").iter(CHUNK):
            chunk = arrow.cells(table, names, name)
            if roles.split == BY_PART:
                chunk[BY_PART] = [splits[name]] * table.num_rows
            yield table.num_rows, chunk


def _undecoded(part: Any, column: str) -> Any:
    """Only the images, as the files that they are."""
    from datasets import Image

    chosen = part.select_columns([column])
    return chosen.cast_column(column, Image(decode=False)) if isinstance(part.features[column], Image) else chosen


def _stamp(part: Any) -> tuple[int, int]:
    """Length of the Arrow files that the library keeps a part in, and a hash of their names and times of change."""
    files = [Path(file["filename"]) for file in part.cache_files]
    if not files or not _holds_images(part):
        return -1, 0
    try:
        found = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError:
        return -1, 0
    digest = blake2b(str(found).encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return sum(size for _, size, _ in found), int.from_bytes(digest)


def _holds_images(part: Any) -> bool:
    """Whether the first image is in the part itself, and not in a file that it names."""
    (value,) = part[0].values()
    return isinstance(value["bytes"] if isinstance(value, dict) else value, bytes)


def _place(starts: NDArray[np.int64], row: int) -> tuple[int, int]:
    part = int(np.searchsorted(starts, row, "right")) - 1
    return part, row - int(starts[part])
