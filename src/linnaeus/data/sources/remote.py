"""Shards that lie elsewhere, at any address that fsspec knows: `https://`, `s3://`, `gs://`, `memory://`.

Who asks a shard for a few images gets their bytes alone. Who goes on asking gets the whole shard, onto this disk, into
a folder that all processes of a user share: at most `BUDGET` bytes, and at most half of what the disk has free; the
shards that were not used for the longest time make room. Shards larger than that are read by ranges.
"""

import errno
import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from linnaeus.core.errors import RequestError
from linnaeus.core.files import atomic, user_cache

BUDGET = 64 << 30
SINGLY = 2
"""Images that one process reads from a shard by ranges before it fetches the shard."""
_ATTEMPTS, _PAUSE = 3, 1.0  # a network has moments; the pause, in seconds, doubles
_FAILED = 60.0  # seconds in which a shard that could not be fetched is not asked for again
_PIECE = 4 << 20  # bytes of one request: whole shards in one would run into the time limits of clients
_STALE = 24 * 3600  # seconds after which a file that was being written belongs to a process that was killed
_VERSIONS = (
    *("ETag", "etag", "Content-MD5", "content_md5", "Digest", "md5Hash", "generation", "blob_id", "sha", "checksum"),
    *("Last-Modified", "LastModified", "last_modified", "modificationTime", "updated", "mtime", "modified", "created"),
)
"""What file systems of fsspec call that which changes with a file: what its content gives first, then times."""

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One version of one shard.

    Attributes:
        place: a path or an address.
        size: bytes.
        version: changes when the shard does: its time of change, or what its server gives to tell.
    """

    place: str
    size: int
    version: str

    @property
    def stamp(self) -> str:
        """Size and version as one text."""
        return f"{self.size} {self.version}"

    @property
    def key(self) -> str:
        """A file name of its own for this version."""
        return blake2b(f"{self.place}\0{self.stamp}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def is_address(place: str) -> bool:
    """Whether it is an address, rather than a path."""
    return "://" in place


def look_at(place: str) -> Shard:
    """The size and the version of a shard.

    Raises:
        RequestError: if there is none, or it cannot be reached.
    """
    if not is_address(place):
        try:
            status = os.stat(place)  # noqa: PTH116  # a text: names are those that the user gave
        except OSError as error:
            raise RequestError(f"{place} cannot be read: {error.strerror}") from None
        return Shard(place, status.st_size, str(status.st_mtime_ns))
    about: Mapping[str, Any] = _asked(place, lambda files, path: files.info(path))
    if not isinstance(about.get("size"), int):
        raise RequestError(f"{place}: the server does not say how large it is")
    return Shard(place, about["size"], next((str(about[name]) for name in _VERSIONS if about.get(name)), ""))


def find(pattern: str) -> list[str]:
    """The addresses that match a pattern with `*`; of a folder, those of the tar files in it and one level below.

    Raises:
        RequestError: if it cannot be reached.
    """

    def ask(files: Any, path: str) -> list[str]:
        wanted = [path] if "*" in path else [f"{path.rstrip('/')}/*.tar", f"{path.rstrip('/')}/*/*.tar"]
        return sorted(files.unstrip_protocol(name) for each in wanted for name in files.glob(each))

    return _asked(pattern, ask)


def fetch_small(place: str) -> bytes | None:
    """The bytes of a small file at an address; None if there is none.

    Raises:
        RequestError: if it cannot be reached.
    """

    def ask(files: Any, path: str) -> bytes | None:
        try:
            content: bytes = files.cat_file(path)
        except (FileNotFoundError, PermissionError):  # stores that may not be listed answer so for what is not there
            return None
        return content

    return _asked(place, ask)


def read_range(shard: Shard, start: int, count: int) -> bytes:
    """Some bytes of a shard at an address.

    Raises:
        OSError: if they cannot be had.
    """
    content: bytes = _patiently(shard.place, lambda files, path: files.cat_file(path, start=start, end=start + count))
    if len(content) == shard.size:  # also from a server that knows no ranges
        content = content[start : start + count]
    if len(content) != count:
        raise OSError(errno.EIO, f"{len(content):,} bytes came and {count:,} were asked for", shard.place)
    return content


class ShardCache:
    """The shards that were fetched, for all processes that use one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: by default the user's; made when the first shard comes."""
        self._folder = folder or user_cache("shards")
        self._reads: Counter[str] = Counter()
        self._failed: dict[str, tuple[float, str]] = {}

    def read(self, shard: Shard, start: int, count: int) -> bytes:
        """Some bytes of a shard, from this disk, or else from where it lies.

        Raises:
            OSError: if they cannot be had.
        """
        path = self._folder / f"{shard.key}.tar"
        for _ in range(_ATTEMPTS):  # another process may drop the shard between two lines of this one
            try:
                os.utime(path)  # tells the others that it is in use
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(count)
            except FileNotFoundError:
                self._reads[shard.key] += 1
                if self._reads[shard.key] <= SINGLY or shard.size > self.budget():
                    return read_range(shard, start, count)
                self._fetch_or_wait(shard)
        return read_range(shard, start, count)

    def _fetch_or_wait(self, shard: Shard) -> None:
        """As `fetch`, but fails at once for a while after it failed: a set has many images to fail for."""
        when, reason = self._failed.get(shard.key, (-_FAILED, ""))
        if time.monotonic() - when < _FAILED:
            raise OSError(errno.EIO, reason, shard.place)
        try:
            self.fetch(shard)
        except OSError as error:
            self._failed[shard.key] = (time.monotonic(), error.strerror or str(error))
            raise

    def fetch(self, shard: Shard, progress: Callable[[int], None] = lambda _: None) -> Path:
        """The whole shard as a file on this disk; one process fetches it, others that want it wait.

        Args:
            progress: called with the number of bytes that came since the last call; below 0 where they come again.

        Raises:
            OSError: if it cannot be had, or is larger than the budget.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{shard.key}.tar"
        if shard.size > self.budget():
            have = f"{shard.size >> 20:,} MiB, and {self.budget() >> 20:,} MiB are free for shards in {self._folder}"
            raise OSError(errno.ENOSPC, f"a shard of {have}", shard.place)
        with self._locked(shard.key[:2]):
            if not path.exists():
                self._make_room(shard.size)
                with atomic(path) as temporary:
                    _patiently(shard.place, lambda files, place: _copy(files, place, temporary, progress))
                    if temporary.stat().st_size != shard.size:
                        raise OSError(errno.EIO, f"it came short of its {shard.size:,} bytes", shard.place)
        return path

    def budget(self) -> int:
        """Bytes that the fetched shards may take: half of what would be free without them, and `BUDGET` at most."""
        home = next(place for place in (self._folder, *self._folder.parents) if place.exists())
        held = sum(size for _, size, _ in self._files())
        return min(BUDGET, (shutil.disk_usage(home).free + held) // 2)

    def _make_room(self, size: int) -> None:
        """Drops the shards not used for longest. Several processes that fetch at once may each exceed by a shard."""
        files = sorted(self._files())
        excess = sum(held for _, held, _ in files) + size - self.budget()
        for used, held, path in files:
            is_whole = path.suffix == ".tar"
            if (excess > 0 and is_whole) or (not is_whole and time.time() - used > _STALE):
                path.unlink(missing_ok=True)
                excess -= held

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(last use in seconds, bytes, path) of all shards, and of those on their way."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):
                    status = path.stat()
                    if not path.name.endswith(".lock"):
                        yield status.st_mtime, status.st_size, path

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process at a time; the lock goes with the process that holds it."""
        with (self._folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _copy(files: Any, place: str, path: Path, progress: Callable[[int], None]) -> None:
    came = counts = 0
    try:
        with files.open(place, "rb", cache_type="none") as there, path.open("wb") as here:
            while piece := there.read(_PIECE):
                here.write(piece)
                progress(len(piece))
                came += len(piece)
        counts = came
    except ValueError:  # a server that knows no ranges
        files.get_file(place, str(path))
    finally:
        progress(counts - came)  # of an attempt that failed nothing counts: the next one begins anew


def _asked(place: str, ask: Callable[[Any, str], T]) -> T:
    """As `_patiently`, for what a user has named."""
    try:
        return _patiently(place, ask)
    except FileNotFoundError:
        raise RequestError(f"there is nothing at {place}") from None
    except OSError as error:
        raise RequestError(f"{place} cannot be read: {error.strerror or error}") from None


def _patiently(place: str, ask: Callable[[Any, str], T]) -> T:
    """`ask` (file system, path in it), some times if need be.

    Raises:
        RequestError: if fsspec knows no such kind of address, or lacks a package for it.
        OSError: if it fails each time; at once where there is no such file.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        files, path = url_to_fs(place)
    except (ImportError, ValueError) as error:
        how = "pip install 'linnaeus[shards]'" if place.startswith("http") else " ".join(str(error).split())
        raise RequestError(f"{place} cannot be read without a further package: {how}") from None
    for attempt in range(_ATTEMPTS):
        try:
            return ask(files, path)
        except FileNotFoundError:
            raise
        except _network_errors() as error:
            if attempt == _ATTEMPTS - 1:
                raise OSError(errno.EIO, " ".join(str(error).split()) or type(error).__name__, place) from None
        time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _network_errors() -> tuple[type[Exception], ...]:
    """What file systems raise; the libraries behind http and s3 have errors of their own kind."""
    found: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError)
    with suppress(ImportError):
        from aiohttp import ClientError

        found += (ClientError,)
    with suppress(ImportError):
        from botocore.exceptions import BotoCoreError

        found += (BotoCoreError,)
    return found
