"""Image files, one an image."""

import errno
import os
import stat
from pathlib import Path

from linnaeus.data.decode import Pixels, decode
from linnaeus.data.sources.base import Labels
from linnaeus.data.sources.paths import Paths


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

    def stamp(self, index: int) -> tuple[int, int] | None:
        """Length and time of change of the file."""
        status = os.stat(os.path.join(self._root, self._paths[index]))  # noqa: PTH116, PTH118  # bytes
        return status.st_size, status.st_mtime_ns

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
