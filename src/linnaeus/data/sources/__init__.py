"""Every kind of source, opened by one verb."""

import glob
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from linnaeus.core.errors import RequestError
from linnaeus.data.sources.animals import open_animals
from linnaeus.data.sources.base import Bar, no_bar
from linnaeus.data.sources.base import Labels as Labels
from linnaeus.data.sources.base import Source as Source
from linnaeus.data.sources.columns import Columns as Columns
from linnaeus.data.sources.columns import names_images
from linnaeus.data.sources.folder import folders_in, open_folder
from linnaeus.data.sources.hub import PREFIX, open_hub
from linnaeus.data.sources.named import find_binary, open_published
from linnaeus.data.sources.parquet import open_parquet, parquet_files
from linnaeus.data.sources.shard_names import find_shards, names_shards, tar_files
from linnaeus.data.sources.table import TABLES, header_of, open_table
from linnaeus.data.sources.webdataset import open_webdataset

NAMED: dict[str, Callable[[], Source]] = {
    "animals": open_animals,
    "mnist": partial(open_published, "mnist"),
    "fashion_mnist": partial(open_published, "fashion_mnist"),
    "cifar10": partial(open_published, "cifar10"),
    "cifar100": partial(open_published, "cifar100"),
}
"""Sets that need no path."""

_FILES = (*TABLES, ".parquet", ".tar")


def open_source(data: str, columns: Columns = Columns(), *, bar: Bar = no_bar) -> Source:  # noqa: B008  # frozen
    """Opens what a user calls DATA.

    | DATA | what it is |
    |---|---|
    | a folder | class folders, perhaps in split folders; or what else it holds, by `_open_folder` |
    | a file .csv .tsv .jsonl .ndjson .parquet | a table with a row an image |
    | a file .tar, `train-{000..127}.tar`, `shards/*.tar`, or an address as `s3://place/set/*.tar` | WebDataset shards |
    | a pattern, as in `shards/*.parquet` | Parquet files |
    | `hf:owner/name`, `hf:owner/name:config` | a set on the Hugging Face hub |
    | a name of `NAMED`, where no file has that name | a set that is found or fetched |

    Args:
        data: the user's word.
        columns: which columns of a table are meant, where the usual names do not say.
        bar: shows how far it is with what takes long: shards that are seen for the first time, rows of Parquet files.

    Raises:
        RequestError: if there is nothing of that name, or columns are named of what has none.
        DataError: if it cannot be used.
    """
    try:
        return _open(data, columns, bar)
    except PermissionError as error:
        raise RequestError(f"{os.fsdecode(error.filename or data)} cannot be read: permission denied") from None


def _open(data: str, columns: Columns, bar: Bar) -> Source:
    if data.startswith(PREFIX):
        return open_hub(data.removeprefix(PREFIX), columns)
    kind = _kind(data)
    if not kind and names_shards(data):
        _refuse(columns, "a set of tar shards")
        return open_webdataset(find_shards(data), bar)
    if kind == "folder":
        return _open_folder(Path(data), columns, bar)
    if kind == "file":
        return _open_file(Path(data), columns, bar)
    if data in NAMED:
        _refuse(columns, f"the built-in set '{data}'")
        return NAMED[data]()
    if glob.has_magic(data):
        return _open_pattern(data, columns, bar)
    raise RequestError(
        f"'{data}' is neither a folder nor a built-in set ({', '.join(NAMED)}), and no file has that name"
    )


def _kind(data: str) -> str:
    """ "folder" or "file", or "" where there is neither."""
    try:
        os.scandir(data).close()
    except NotADirectoryError:
        return "file"
    except PermissionError:
        raise
    except (OSError, ValueError):  # also a name that is no path at all
        return ""
    return "folder"


def _open_folder(root: Path, columns: Columns, bar: Bar) -> Source:
    """The first that fits: a table called `labels`, Parquet files, tar shards, MNIST's or CIFAR's files, class folders.

    Beside folders the table must have a column of paths: some sets explain their class folders in such a file.
    """
    table = next((file for ending in TABLES if (file := root / f"labels{ending}").is_file()), None)
    if table is not None and (names_images(columns, header_of(table)) or not folders_in(root)):
        return _open_file(table, columns, bar)
    files = parquet_files(root)
    if files:
        return open_parquet(files, root, columns, bar)
    _refuse(columns, f"the folder {root}")
    shards = tar_files(root)
    if shards:
        return open_webdataset([str(shard) for shard in shards], bar)
    source = find_binary(root) or open_folder(root)
    if table is not None:
        source.labels = replace(source.labels, notes=(f"{table} has no column of paths: not used",))
    return source


def _open_file(path: Path, columns: Columns, bar: Bar) -> Source:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return open_parquet([path], path.parent, columns, bar)
    if ending == ".tar":
        _refuse(columns, f"the tar file {path}")
        return open_webdataset([str(path)], bar)
    if ending not in TABLES:
        raise RequestError(f"{path} is no table: expected a folder, or a file that ends in {', '.join(_FILES)}")
    return open_table(path, columns)


def _open_pattern(pattern: str, columns: Columns, bar: Bar) -> Source:
    files = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207  # may be absolute
    if not files:
        raise RequestError(f"no file matches '{pattern}'")
    if all(file.suffix.lower() == ".tar" for file in files):
        _refuse(columns, "a set of tar shards")
        return open_webdataset([str(file) for file in files], bar)
    others = [file for file in files if file.suffix.lower() != ".parquet"]
    if others:
        raise RequestError(f"'{pattern}' matches {others[0]}: only Parquet files may be several, or only tar shards")
    return open_parquet(files, Path(os.path.commonpath([file.parent for file in files])), columns, bar)


def _refuse(columns: Columns, what: str) -> None:
    if columns != Columns():
        raise RequestError(f"{what} has no columns to choose: leave out --path-column, --label-column, --split-column")
