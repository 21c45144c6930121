"""Which tar shards a user means, and what lies beside them: names of classes, and indexes."""

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.sources import remote
from linnaeus.data.sources.folder import files_in, split_folders
from linnaeus.data.sources.remote import is_address

_MOST_SHARDS = 1_000_000  # more are a slip in the braces


def names_shards(data: str) -> bool:
    """Whether DATA is an address, or a pattern with braces."""
    return is_address(data) or bool(re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}", data))


def find_shards(data: str) -> list[str]:
    """The shards that a user means by a pattern with braces or an address.

    Raises:
        RequestError: if there are none, or braces hold neither a range nor a list.
    """
    found = []
    for pattern in expand(data.removeprefix("file://")):
        if is_address(pattern):
            found += [pattern] if pattern.endswith(".tar") and "*" not in pattern else remote.find(pattern)
        else:
            found += sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
    if not found:
        raise RequestError(f"no shard matches '{data}'")
    return found


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar` -> a-000.tar, a-001.tar, a-002.tar; `{a,b}.tar` -> a.tar, b.tar; braces multiply.

    Raises:
        RequestError: if braces hold neither a range nor a list, or too many.
    """
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    if "{" in pattern[: braces.start()]:
        raise RequestError(f"'{pattern}': braces within braces are not understood; give a range or a list of names")
    content = braces[1]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", content)
    if ends:
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < _MOST_SHARDS:
            raise RequestError(f"'{pattern}': {{{content}}} is no range of shards: expected as in {{000000..000127}}")
        parts = [f"{number:0{len(ends[1])}d}" for number in range(first, last + 1)]
    elif "," in content:
        parts = content.split(",")
    else:
        raise RequestError(f"'{pattern}': {{{content}}} is neither a range as {{000..127}} nor a list as {{a,b}}")
    rests = expand(pattern[braces.end() :])
    return [f"{pattern[: braces.start()]}{part}{rest}" for part in parts for rest in rests]


def tar_files(root: Path) -> list[Path]:
    """The tar files of a folder: in it, and in the folders of its splits; sorted."""
    places = [root, *(folder for _, folder in split_folders(root) if folder != root)]
    return sorted(file for place in places for file in files_in(place, ".tar"))


def index_name(shard: str) -> str:
    """Where the index of a shard lies: `train-000000.index` beside `train-000000.tar`."""
    return f"{shard.removesuffix('.tar')}.index"


def root_of(shards: Sequence[str]) -> str:
    """The folder that all shards are in, with a slash at its end; "" for the current one."""
    folders = [shard.rpartition("/")[0] for shard in shards]
    if all(map(is_address, shards)):
        start = os.path.commonprefix([f"{folder}/" for folder in folders])  # noqa: RUF071  # the cut is below
        return start[: start.rfind("/") + 1]
    common = os.path.commonpath(folders) if len({folder[:1] == "/" for folder in folders}) == 1 else ""
    return f"{common.rstrip('/')}/" if common else ""


def class_names(root: str) -> tuple[str, ...]:
    """The names in `classes.json` or `classes.txt` in the folder of the shards; none if there is no such file."""
    for name in ("classes.json", "classes.txt"):
        place = f"{root}{name}"
        content = remote.fetch_small(place) if is_address(place) else _read_if_there(Path(place))
        if content is not None:
            return _parse_names(content.decode("utf-8-sig", "replace"), place)
    return ()


def _read_if_there(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _parse_names(text: str, place: str) -> tuple[str, ...]:
    if place.endswith(".txt"):
        names = [line.strip() for line in text.splitlines()]
    else:
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            names = []
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{place}: expected the names of the classes, in order, as a list of texts")
    return tuple(names)
