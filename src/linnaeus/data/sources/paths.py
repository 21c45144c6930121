"""Many file names in two flat arrays.

A million `str` objects cost 100 MB and a second to send to a worker process; the same names in one block of bytes cost
what they are long. Names are bytes, as the file system has them: those that are not UTF-8 survive.
"""

import os
from array import array
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


class Paths:
    """N file names, read only."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        """`blob`: all names one after the other; `offsets`: (N + 1,), name i is `blob[offsets[i] : offsets[i + 1]]`."""
        self._blob, self._offsets = blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._blob[self._offsets[index] : self._offsets[index + 1]].tobytes()

    def between(self, start: int, stop: int) -> list[bytes]:
        """The names from `start` on, before `stop`: all at once, which is several times as fast as one by one."""
        offsets = (self._offsets[start : stop + 1] - self._offsets[start]).tolist()
        block = self._blob[self._offsets[start] : self._offsets[min(stop, len(self))]].tobytes()
        return [block[low:high] for low, high in pairwise(offsets)]

    def texts_between(self, start: int, stop: int) -> list[str]:
        """The same as text, with surrogates for bytes that are none, as `os.fsdecode` has them."""
        names = self.between(start, stop)
        text = b"\0".join(names)
        if text.isascii() and text.count(b"\0") == len(names) - 1:  # as most are: one call for all
            return text.decode().split("\0")
        return list(map(os.fsdecode, names))

    def lengths(self) -> NDArray[np.int64]:
        """(N,) how many bytes each name has."""
        return np.diff(self._offsets)

    def take(self, rows: NDArray[np.int64]) -> "Paths":
        """The names at `rows`, in their order."""
        chosen = PathList()
        for start in range(0, len(rows), 1 << 14):
            chosen.extend([self[row] for row in rows[start : start + (1 << 14)].tolist()])
        return join([chosen])


class PathList:
    """Collects names for a `Paths`, as compactly."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.lengths = array("q")

    def __len__(self) -> int:
        return len(self.lengths)

    def extend(self, names: Sequence[bytes]) -> None:
        """Adds some names; many at a time is faster."""
        self.blob += b"".join(names)
        self.lengths.extend(map(len, names))

    def extend_texts(self, names: Sequence[str]) -> None:
        """Adds some names given as text, with the surrogates of `os.fsdecode` for bytes that are none."""
        text = "".join(names)
        if text.isascii():  # as most are: one call for all
            self.blob += text.encode()
            self.lengths.extend(map(len, names))
        else:
            self.extend([os.fsencode(name) for name in names])


def join(parts: Sequence[PathList]) -> Paths:
    """All names of all parts, in order; one part is not copied."""
    blobs = [np.frombuffer(part.blob, np.uint8) for part in parts]
    lengths = np.concatenate([np.frombuffer(part.lengths, np.int64) for part in parts] or [np.zeros(0, np.int64)])
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Paths(blobs[0] if len(blobs) == 1 else np.concatenate([*blobs, np.zeros(0, np.uint8)]), offsets)


def readable(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 become escapes, as in `caf\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
