"""The audit before training: every image is decoded once, and what cannot be used is listed with its reason."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.decode import Pixels, UnreadableImage
from linnaeus.data.sources import Source

_CHUNK = 64  # images a task: enough to hide the pool's overhead, few enough for a smooth progress bar


@dataclass(frozen=True)
class Finding:
    """What one image turned out to be.

    Attributes:
        digest: hash of the content, equal for exact copies; empty if the file could not be read at all.
        shape: (height, width, channels) after decoding; zeros if it failed.
        reason: why the image cannot be used, or "".
        pixels: (H, W, C) uint8, kept for small images only.
    """

    digest: bytes = b""
    shape: tuple[int, int, int] = (0, 0, 0)
    reason: str = ""
    pixels: Pixels | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Audit:
    """The findings on N images.

    Attributes:
        findings: one for each image, in the order of the source.
    """

    findings: tuple[Finding, ...]

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the images that decode."""
        return np.array([i for i, finding in enumerate(self.findings) if not finding.reason], np.int64)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """(N, 3) heights, widths and channels."""
        return np.array([finding.shape for finding in self.findings], np.int64).reshape(-1, 3)

    @property
    def broken(self) -> dict[int, str]:
        """Position -> reason, for the images that do not decode."""
        return {i: finding.reason for i, finding in enumerate(self.findings) if finding.reason}


def audit(source: Source, *, keep_below: int = 64, progress: Callable[[int], None] | None = None) -> Audit:
    """Decodes every image of a source, on all cores.

    Args:
        source: where the images are.
        keep_below: images whose sides are at most this long keep their pixels, so that they need not be decoded again.
        progress: called with the number of images done since the last call.
    """
    starts = range(0, len(source.labels), _CHUNK)

    def examine(start: int) -> list[Finding]:
        stop = min(start + _CHUNK, len(source.labels))
        return [_examine(source, index, keep_below) for index in range(start, stop)]

    # Threads, not processes: Pillow releases the interpreter's lock while it decodes, and a thread needs no start-up.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return Audit(tuple(_collect(pool.map(examine, starts), progress)))


def _collect(chunks: Iterator[list[Finding]], progress: Callable[[int], None] | None) -> Iterator[Finding]:
    for chunk in chunks:
        yield from chunk
        if progress is not None:
            progress(len(chunk))


def _examine(source: Source, index: int, keep_below: int) -> Finding:
    try:
        content = source.read(index)
    except OSError as error:
        return Finding(reason=f"cannot be read ({error.strerror or error})")
    digest = blake2b(content, digest_size=16).digest()
    try:
        pixels = source.decode(content)
    except UnreadableImage as error:
        return Finding(digest, reason=str(error))
    height, width, channels = pixels.shape
    return Finding(digest, (height, width, channels), pixels=pixels if max(height, width) <= keep_below else None)
