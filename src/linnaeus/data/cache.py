"""Decoded images of bounded size, kept on disk and shared by all epochs, workers, ranks and runs.

    <root>/<name>/pixels    the images one after the other, (H, W, C) uint8; a file of holes at first, memory-mapped
    <root>/<name>/marks     for each image 8 bytes: zero, or the checksum of its pixels once these are there

The name is a hash of all that decides the pixels: the content of every image, the decoder, the bound. So the place of
an image follows from the list of their shapes, and where images have changed there is another cache. The first run
fills it as it goes; what a killed run has filled is there for the next one.

Filling needs no lock: whoever decodes an image first writes its pixels and then its mark. A process that is killed in
between leaves no mark, and two that fill one place at once write the same bytes. Pixels are written by system calls and
never through the map: on a full disk a call fails, and a map kills the process. After a loss of power a mark may be on
the disk and the pixels not, so each process compares an image with its checksum when it first reads it.

The pixels do not depend on the cache. Without it, with half of it or on a full disk, training sees the same images,
only more slowly.
"""

import errno
import fcntl
import mmap
import os
import re
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.data.decode import Pixels
from linnaeus.data.fast import FastPath
from linnaeus.data.sources import Source

FORMAT = 1
GIB = 2**30
SPARE = GIB
"""Bytes that caches leave free on their disk: a checkpoint that cannot be written costs more than decoding."""

_MARK = 8  # bytes
_ALIGN = 64  # bytes
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Plan:
    """What a run knows of the N images that it wants to keep.

    Attributes:
        digests: (N,) V16, `digest_of` each image's content.
        shapes: (N, 3), (height, width, channels) of the pixels; zeros for an image that cannot be read.
    """

    digests: NDArray[np.void]
    shapes: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) bytes of the pixels."""
        sizes: NDArray[np.int64] = self.shapes.prod(1, dtype=np.int64)
        return sizes

    @property
    def ends(self) -> NDArray[np.int64]:
        """(N,) where in the file the place of each image ends, and that of the next one starts."""
        ends: NDArray[np.int64] = np.cumsum(-(-self.sizes // _ALIGN) * _ALIGN)
        return ends

    def fitting(self, room: int) -> NDArray[np.bool_]:
        """(N,) which images have a place in so many bytes."""
        fitting: NDArray[np.bool_] = (self.ends <= room) & (self.sizes > 0)
        return fitting


class ImageCache:
    """The files of a cache, open, and locked against removal as long as this object is in use."""

    def __init__(self, folder: Path, plan: Plan, placed: NDArray[np.bool_], is_full: Tensor | None = None) -> None:
        """Opens what `open_cache` made.

        Args:
            placed: (N,) which images have a place.
            is_full: (1,) bool in shared memory, by which one worker tells all that no more can be written.

        Raises:
            OSError: if it is gone.
        """
        self._folder, self._plan, self._placed = folder, plan, placed
        self._is_full = torch.zeros(1, dtype=torch.bool) if is_full is None else is_full
        self._is_full.share_memory_()  # type: ignore[no-untyped-call]
        self._sizes, self._starts = plan.sizes, np.concatenate([[0], plan.ends[:-1]])
        self._checked = np.zeros(len(placed), bool)
        self._files = [os.open(folder / name, os.O_RDWR) for name in ("pixels", "marks")]
        for file in self._files:
            weakref.finalize(self, os.close, file)
        fcntl.flock(self._files[0], fcntl.LOCK_SH)
        pixels, marks = (mmap.mmap(file, 0, access=mmap.ACCESS_READ) for file in self._files)
        self._pixels, self._marks = np.frombuffer(pixels, np.uint8), np.frombuffer(marks, "<u8")

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[Path, Plan, NDArray[np.bool_], Tensor]]:
        return ImageCache, (self._folder, self._plan, self._placed, self._is_full)

    @property
    def full(self) -> bool:
        """Whether a process found that no more can be written."""
        return bool(self._is_full)

    def read(self, position: int) -> Pixels | None:
        """The pixels of an image, (H, W, C) uint8 and read-only, or None if they are not there."""
        if not self._placed[position] or not self._marks[position]:
            return None
        start = int(self._starts[position])
        flat = self._pixels[start : start + int(self._sizes[position])]
        if not self._checked[position]:
            if _checksum(flat) != self._marks[position]:
                return None
            self._checked[position] = True
        return flat.reshape(self._plan.shapes[position].tolist())

    def write(self, position: int, content: bytes, pixels: Pixels) -> None:
        """Keeps the pixels of an image, unless there is no place or `content` is no longer what was audited."""
        if not self._placed[position] or self.full or tuple(self._plan.shapes[position]) != pixels.shape:
            return
        if self._plan.digests[position].tobytes() != digest_of(content):
            return
        flat = np.ascontiguousarray(pixels).reshape(-1)
        try:
            if _free(self._files[0]) < SPARE:
                raise OSError(errno.ENOSPC, "no space left")
            _write(self._files[0], flat.data, int(self._starts[position]))
            _write(self._files[1], np.uint64(_checksum(flat)).tobytes(), position * _MARK)
        except OSError:  # the disk is full, or broken
            self._is_full[0] = True


@dataclass(frozen=True)
class BoundedImages:
    """Position -> pixels of bounded size: from the cache, or decoded and kept there.

    Attributes:
        bound: of the shorter side, as `FastPath.bounded` takes it.
        cache: None decodes anew each time.
    """

    source: Source
    fast: FastPath
    bound: int
    cache: ImageCache | None = None

    def __call__(self, position: int) -> Pixels:
        """The pixels of an image, (H, W, 1 or 3) uint8; they may be read-only.

        Raises:
            UnreadableImage, OSError: as the source does.
        """
        kept = None if self.cache is None else self.cache.read(position)
        if kept is not None:
            return kept
        content = self.source.read(position)
        pixels = self.fast.bounded(content, self.bound, self.source.decode)
        if self.cache is not None:
            self.cache.write(position, content, pixels)
        return pixels


def digest_of(content: bytes) -> bytes:
    """The hash by which an image is known, as the audit takes it: 16 bytes."""
    return blake2b(content, digest_size=16).digest()


def default_budget(root: Path) -> int:
    """Bytes for caches in `root`, which need not exist: half of the memory, where the system keeps files that are read
    often, and no more than a quarter of the free disk.
    """
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(memory // 2, _free(existing) // 4)


def open_cache(root: Path, made_by: str, plan: Plan, *, budget: int) -> tuple[ImageCache | None, str]:
    """Opens a cache, and evicts others where the budget asks for it: the least recently used first, none in use.

    Args:
        root: the folder of all caches, made if need be.
        made_by: all that decides the pixels beside the content: the decoder, the bound.
        plan: the images. The first ones have a place, as many as there is room for.
        budget: bytes for all caches in `root` together.

    Returns:
        The cache, if there is room for any image, and a line on it for a person. What goes wrong is no reason to stop a
        run.
    """
    name = blake2b(f"{FORMAT}\0{made_by}\0".encode(), digest_size=16)
    name.update(plan.digests.tobytes() + plan.shapes.tobytes())
    folder = root / name.hexdigest()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / "lock"):
            others = _evict(folder, int(plan.ends[-1]), budget)
            own = _stat(folder / "pixels", "st_blocks") * 512
            placed = plan.fitting(min(budget - others, own + _free(root) - SPARE))
            if not placed.any():
                return None, f"decoded images are not kept: there is no room in {root}"
            _prepare(folder, len(placed), int(plan.ends[placed].max()))
            cache = ImageCache(folder, plan, placed)  # here, under the lock: from now on nobody evicts it
    except OSError as error:
        return None, f"decoded images are not kept: {root}: {error.strerror or error}"
    return cache, f"decoded images are kept in {root}: {_in_words(plan, placed)}"


def _in_words(plan: Plan, placed: NDArray[np.bool_]) -> str:
    size, count, usable = int(plan.sizes[placed].sum()), int(placed.sum()), int((plan.sizes > 0).sum())
    room = f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"
    return f"{room} for {usable:,}" if count == usable else f"{room} for {count:,} of {usable:,}, for want of room"


def _prepare(folder: Path, count: int, length: int) -> None:
    """Makes the files as long as they are to be; one in use is never cut, for who has it mapped would be killed."""
    folder.mkdir(exist_ok=True)
    pixels, marks = folder / "pixels", folder / "marks"
    is_unused = _is_unused(folder)
    pixels.touch()
    marks.touch()
    os.truncate(marks, count * _MARK)
    os.truncate(pixels, length if is_unused else max(length, _stat(pixels, "st_size")))
    os.utime(pixels)


def _evict(own: Path, needed: int, budget: int) -> int:
    """Removes other caches until `needed` bytes fit into the budget, where that is possible; the bytes of the rest."""
    others = [folder for folder in own.parent.iterdir() if _NAME.fullmatch(folder.name) and folder != own]
    sizes = {folder: _stat(folder / "pixels", "st_size") for folder in others}
    for folder in sorted(others, key=lambda folder: _stat(folder / "pixels", "st_mtime_ns")):
        if sum(sizes.values()) + needed > budget and _is_unused(folder):
            shutil.rmtree(folder)
            del sizes[folder]
    return sum(sizes.values())


def _is_unused(folder: Path) -> bool:
    """Whether no process has the cache open. The answer holds as long as the caller's lock does."""
    try:
        file = os.open(folder / "pixels", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def _stat(path: Path, what: str) -> int:
    """One field of a file's status, 0 if there is no such file."""
    return int(getattr(path.stat(), what)) if path.is_file() else 0


def _free(place: Path | int) -> int:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize


def _checksum(flat: Pixels) -> int:
    """The sum of the 8-byte words, never 0: 0.03 ms an image, and a lost page, which reads as zeros, shows."""
    words = len(flat) // 8 * 8
    total = int(flat[:words].view("<u8").sum(dtype=np.uint64)) + int(flat[words:].sum())
    return total % (2**64 - 1) + 1


def _write(file: int, content: bytes | memoryview, offset: int) -> None:
    """Writes all of it, or fails."""
    view = memoryview(content)
    while len(view):
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time into the block; the lock of a killed one is released by the system."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
