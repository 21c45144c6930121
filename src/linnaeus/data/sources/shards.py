"""The row groups of Parquet files: where each row lies, and the groups last read.

A Parquet file is read a row group at a time: to reach one image, all of its group is read and decompressed. So the last
groups stay in memory, in each process for itself.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources.rows import CHUNK

_CACHE_BYTES = 128 << 20


class Shards:
    """Some Parquet files as one run of N rows in G row groups.

    Attributes:
        files: their paths.
        schema: the Arrow schema of the first.
        num_rows: N.
        largest_group: bytes of the largest row group, uncompressed.
    """

    def __init__(self, files: Sequence[Path], root: Path) -> None:
        """Reads the files' ends, where Parquet keeps its table of contents.

        Raises:
            RequestError: if pyarrow is missing, or a file cannot be read.
            DataError: if a file is damaged, or not like the first.
        """
        self.files, self._root = tuple(map(str, files)), str(root)
        self.schema: Any = None
        sizes: list[int] = []
        firsts = [0]
        self.largest_group = 0
        for file in self.files:
            with _opened(file) as parquet:
                self.schema = parquet.schema_arrow if self.schema is None else self.schema
                _check_same(self.schema, parquet.schema_arrow, self.files[0], file)
                groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
            sizes += [group.num_rows for group in groups]
            firsts.append(len(sizes))
            self.largest_group = max([self.largest_group, *(group.total_byte_size for group in groups)])
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])  # (G + 1,) rows
        self._firsts = np.array(firsts, np.int64)  # (files + 1,) the first group of each file
        self.num_rows = int(self._starts[-1])

    def find(self, row: int) -> tuple[int, int]:
        """The group of a row, and the row's position in it."""
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        return group, row - int(self._starts[group])

    def name(self, row: int) -> str:
        """The file, relative to the root, and the number of the row in it."""
        file = self._file_of(self.find(row)[0])
        return f"{os.path.relpath(self.files[file], self._root)}:{row - int(self._starts[self._firsts[file]])}"

    def batches(self, columns: list[str]) -> Iterator[tuple[str, Any]]:
        """All rows of some columns, in order, as (path of the file relative to the root, Arrow record batch)."""
        for file in self.files:
            with _opened(file) as parquet, _explained(file):
                for batch in parquet.iter_batches(CHUNK, columns=columns, use_threads=False):
                    yield os.path.relpath(file, self._root), batch

    def read_group(self, group: int, column: str) -> Any:
        """One column of one row group, as an Arrow array.

        Raises:
            OSError: if it cannot be read, or is damaged.
        """
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

        file = self._file_of(group)
        try:
            with ParquetFile(self.files[file]) as parquet:
                number = group - int(self._firsts[file])
                return parquet.read_row_group(number, columns=[column], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # the system's word, not pyarrow's on the content
                raise
            raise OSError(errno.EIO, f"damaged: {' '.join(str(error).split())}") from None

    def files_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(M,) rows -> (M,) positions in `files`."""
        return np.searchsorted(self._starts[self._firsts], rows, "right") - 1

    def stamps(self) -> NDArray[np.int64]:
        """(files, 2) length and time of change (ns) of each file; -1 and 0 where there is none any more."""
        stamps = np.tile(np.array([-1, 0], np.int64), (len(self.files), 1))
        for stamp, file in zip(stamps, self.files, strict=True):
            with suppress(OSError):
                status = os.stat(file)  # noqa: PTH116  # a text
                stamp[:] = status.st_size, status.st_mtime_ns
        return stamps

    def _file_of(self, group: int) -> int:
        return int(np.searchsorted(self._firsts, group, "right")) - 1


class GroupCache:
    """The row groups last read. Sent to another process, it begins empty."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._columns: OrderedDict[int, Any] = OrderedDict()

    def __reduce__(self) -> tuple[type["GroupCache"], tuple[()]]:
        return GroupCache, ()

    def get(self, shards: Shards, group: int, column: str) -> Any:
        """As `shards.read_group`; several threads may call it."""
        with self._lock:  # a thread that wants the group that another is reading waits, rather than read it too
            if group not in self._columns:
                self._columns[group] = shards.read_group(group, column)
                while len(self._columns) > 1 and sum(c.nbytes for c in self._columns.values()) > _CACHE_BYTES:
                    self._columns.popitem(last=False)
            self._columns.move_to_end(group)
            return self._columns[group]


@contextmanager
def _opened(file: str) -> Iterator[Any]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise RequestError(f"{file}: Parquet needs pyarrow: pip install 'linnaeus[table]'") from None
    with _explained(file):
        parquet = ParquetFile(file)
    with parquet:
        yield parquet


@contextmanager
def _explained(file: str) -> Iterator[None]:
    """Errors of pyarrow as ours."""
    import pyarrow as pa

    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged, or not Parquet: {' '.join(str(error).split())}") from None


def _check_same(expected: Any, found: Any, first: str, file: str) -> None:
    if expected.names != found.names or expected.types != found.types:
        theirs, ours = (", ".join(f"{field.name} ({field.type})" for field in s) for s in (expected, found))
        raise DataError(f"{file} is not like {first}: its columns are {ours}, and there {theirs}")
