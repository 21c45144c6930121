"""Image files, one an image."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels, decode
from linnaeus.data.sources.base import Labels
from linnaeus.data.sources.paths import Paths

_CHUNK = 4096  # files that one thread looks at before it asks for more
_LOOKERS = 8  # threads where files lie over a network, which answers many at a time
_SLOW = 50e-6  # seconds a file, above which they do; on a disk of one's own, threads only wait for each other


class FileSource:
    """Image files, most of them below one folder. Nothing is opened until it is read."""

    def __init__(self, root: Path, paths: Paths, labels: Labels) -> None:
        """`paths` are relative to `root` or absolute, in the order of `labels`."""
        self._root = os.fsencode(root)
        self._paths = paths
        self.labels = labels

    def name(self, index: int) -> str:
        """The path, relative to the folder or as it was given."""
        return os.fsdecode(self._paths[index])

    def names(self, start: int, stop: int) -> list[str]:
        """The paths of the images from `start` on, before `stop`."""
        return self._paths.texts_between(start, stop)

    def stamps(self) -> NDArray[np.int64]:
        """(N, 2) length and time of change of each file; -1 and 0 where there is none any more."""
        stamps = np.zeros((len(self.labels), 2), np.int64)
        stamps[:, 0] = -1
        with suppress(OSError), _opened(self._root) as root:
            look = partial(_look, self._paths, root, stamps)
            began = time.perf_counter()
            look(0)
            lookers = _LOOKERS if time.perf_counter() - began > _SLOW * _CHUNK else 1
            with ThreadPoolExecutor(lookers) as pool:
                for _ in pool.map(look, range(_CHUNK, len(stamps), _CHUNK)):
                    pass
        return stamps

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        path = os.path.join(self._root, self._paths[index])  # noqa: PTH118  # bytes, which pathlib does not take
        if b"\0" in path:
            raise OSError(errno.EINVAL, "a zero byte in its name")
        # A list of files may name anything: reading a pipe would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise OSError(errno.EINVAL, "a folder or a device, not a file")
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()

    def decode(self, content: bytes) -> Pixels:
        """Decodes by the policy of `data/decode.py`."""
        return decode(content)


@contextmanager
def _opened(folder: bytes) -> Iterator[int]:
    """The folder as something to look names up from: shorter than their whole paths, and so faster."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _look(paths: Paths, root: int, stamps: NDArray[np.int64], start: int) -> None:
    found: list[tuple[int, int]] = []
    for path in paths.between(start, start + _CHUNK):
        try:
            status = os.stat(path, dir_fd=root)
            found.append((status.st_size, status.st_mtime_ns))
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            found.append((-1, 0))
    stamps[start : start + _CHUNK] = np.array(found, np.int64).reshape(-1, 2)
