"""Which samples each of many tar shards holds: from an earlier run, from beside it, or by a pass over it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from linnaeus.core.errors import DataError, EnvironmentFault, RequestError
from linnaeus.core.files import atomic, user_cache
from linnaeus.data.sources import remote
from linnaeus.data.sources.base import Bar
from linnaeus.data.sources.remote import Shard, ShardCache, is_address
from linnaeus.data.sources.shard_names import index_name
from linnaeus.data.sources.tar import ShardIndex, load_index, save_index, scan

_READERS = 8  # shards that are opened at the same time


def look(shards: Sequence[str], bar: Bar) -> tuple[list[Shard], list[tuple[ShardIndex, str]]]:
    """The shards, and for each the samples in it and what to say of it.

    Raises:
        RequestError: if a shard does not exist or cannot be reached.
        DataError: if a shard is compressed.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        with bar("looking at shards", len(shards), unit="shards") as advance:

            def look_at(place: str) -> tuple[Shard, ShardIndex | None, str]:
                shard = remote.look_at(place)
                index, note = _known_index(shard)
                advance(1)
                return shard, index, note

            looked_at = list(pool.map(look_at, shards))
        missing = [shard for shard, index, _ in looked_at if index is None]
        if missing:
            with bar("indexing shards", sum(shard.size for shard in missing), unit="bytes") as advance:
                made = iter(list(pool.map(lambda shard: _make_index(shard, advance), missing)))
    indexed = [(next(made) if index is None else index, note) for _, index, note in looked_at]
    return [shard for shard, _, _ in looked_at], indexed


def _kept(shard: Shard) -> Path:
    return user_cache("shard-indexes") / f"{shard.key}.safetensors"


def _known_index(shard: Shard) -> tuple[ShardIndex | None, str]:
    """The samples of a shard from an earlier run or from beside it, if they are known, and what to say of that."""
    with suppress(RequestError, EnvironmentFault):  # there is none, or a torn one
        if (index := load_index(_kept(shard), shard.stamp)) is not None:
            return index, ""
    index, note = _index_beside(shard, _kept(shard))
    if index is not None:
        _keep(index, shard)
    return index, note


def _make_index(shard: Shard, advance: Callable[[int], None]) -> ShardIndex:
    """The samples of a shard by a pass over it; `advance` is told of all its bytes."""
    told = 0

    def tell(count: int) -> None:
        nonlocal told
        told += count
        advance(count)

    try:
        if is_address(shard.place):  # what takes long is that it comes
            path, progress = ShardCache().fetch(shard, tell), None
        else:
            path, progress = Path(shard.place), tell
        with path.open("rb") as file:
            index = scan(file, progress)
    except DataError as error:
        raise DataError(f"{shard.place} {error}") from None
    except OSError as error:
        raise RequestError(f"{shard.place} cannot be read: {error.strerror or error}") from None
    advance(shard.size - told)
    _keep(index, shard)
    return index


def _keep(index: ShardIndex, shard: Shard) -> None:
    if len(index):
        with suppress(OSError):  # the next run passes over the shard again
            _kept(shard).parent.mkdir(parents=True, exist_ok=True)
            save_index(_kept(shard), index, shard.stamp)


def _index_beside(shard: Shard, kept: Path) -> tuple[ShardIndex | None, str]:
    """What lies beside the shard, of the same size; an address's is brought to `kept` first."""
    place = index_name(shard.place)
    path = Path(place)
    if is_address(place):
        content = remote.fetch_small(place)
        if content is None:
            return None, ""
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with atomic(kept) as temporary:
                temporary.write_bytes(content)
        path = kept
    if not path.is_file():
        return None, ""
    try:
        index = load_index(path, str(shard.size))
    except (RequestError, EnvironmentFault) as error:
        return None, f"{place} is not used: {error}"
    return index, "" if index else f"{place} is not used: it is of another version of the shard"
