"""What is known of each image once it has been decoded: one row of a flat table, kept between runs.

A row is 1.2 kB, most of it a thumbnail, so that a million images take 1.2 GB and no Python object each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.data.decode import Pixels

KIND, VERSION = "linnaeus-facts", 1
THUMBNAIL = 32  # pixels a side: enough to tell images apart by, and 1 kB
TINT = 4  # pixels a side of the thumbnail of the colours

FACTS = np.dtype(
    [
        ("key", "<u8"),  # hash of the name
        ("length", "<i8"),  # bytes of the file, and
        ("modified", "<i8"),  # its time of change, ns since 1970: together they say whether a row is still true
        ("digest", "u1", 16),  # hash of the content; zeros if it could not be read
        ("shape", "<i4", 3),  # (height, width, channels) after decoding; zeros if that failed
        ("grey", "u1", (THUMBNAIL, THUMBNAIL)),  # thumbnail, each value the average of what it covers
        ("tint", "i1", (TINT, TINT, 2)),  # of the same, red less green and blue less green, halved
        (
            "spread",
            "u1",
        ),  # largest difference in one channel: within the thumbnail, or, if that is flat, the image
        ("format", "S8"),  # Pillow's name, or b"" where the source has no files
        ("mode", "S8"),  # Pillow's name of how the pixels are stored
        ("bits", "u1"),  # a channel, in the file
        ("transparent", "?"),
        ("frames", "<i4"),
        ("orientation", "u1"),  # EXIF's, 1 to 8; 0 where the source has no files
        ("camera", "S32"),
    ]
)

Stamp = Callable[[int], tuple[int, int] | None]
"""Position -> (bytes, time of change in ns) of the image's file, or None if it cannot be told."""


@dataclass(frozen=True)
class ImageFacts:
    """One image of an audit.

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
    """The facts of N images.

    Attributes:
        rows: (N,) of `FACTS`, in the order of the source.
        broken: position -> reason, for the images that do not decode.
        remarks: position -> what the decoder found odd in an image that it decoded all the same.
        pixels: position -> (H, W, C) uint8, for small images that were decoded in this run.
        decoded: how many images were decoded in this run; the others were known.
        note: why what was known could not be used, or "".
    """

    rows: NDArray[np.void]
    broken: dict[int, str]
    remarks: dict[int, str]
    pixels: dict[int, Pixels] = field(repr=False)
    decoded: int
    note: str = ""

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the images that decode."""
        usable = np.ones(len(self.rows), bool)
        usable[list(self.broken)] = False
        return np.flatnonzero(usable)

    @property
    def shapes(self) -> NDArray[np.int64]:
        """(N, 3) heights, widths and channels."""
        return self.rows["shape"].astype(np.int64)

    @property
    def digests(self) -> NDArray[np.void]:
        """(N,) 16 bytes each, equal for exact copies; zeros where the file could not be read."""
        return np.ascontiguousarray(self.rows["digest"]).view("V16")[:, 0]

    @cached_property
    def findings(self) -> tuple[ImageFacts, ...]:
        """The same, an object an image: for sets of up to some hundred thousand images."""
        digests, shapes = self.digests.tolist(), self.rows["shape"].tolist()
        return tuple(
            ImageFacts(digest if any(digest) else b"", tuple(shape), self.broken.get(i, ""), self.pixels.get(i))
            for i, (digest, shape) in enumerate(zip(digests, shapes, strict=True))
        )


@dataclass(frozen=True)
class Known:
    """Rows of an earlier run, found by the hash of the name; reasons and remarks by the same hash.

    Attributes:
        rows: (M,) of `FACTS`, sorted by key.
    """

    rows: NDArray[np.void]
    broken: dict[int, str]
    remarks: dict[int, str]
    note: str = ""

    def recall(self, wanted: NDArray[np.void]) -> NDArray[np.int64]:
        """(N,) for each wanted row the position of the one with its key, length and time of change; -1 if none."""
        if not len(self.rows):
            return np.full(len(wanted), -1)
        place = np.searchsorted(self.rows["key"], wanted["key"]).clip(max=len(self.rows) - 1)
        same = wanted["length"] >= 0
        for name in ("key", "length", "modified"):
            same &= self.rows[name][place] == wanted[name]
        return np.where(same, place, -1)


NOTHING_KNOWN = Known(np.zeros(0, FACTS), {}, {})


def name_key(name: str) -> int:
    """64 bits of a name, which may hold bytes that are not text."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def load_known(path: Path | None) -> Known:
    """What an earlier run wrote to `path`; nothing, with a note, if that is damaged or of another version."""
    if path is None or not path.exists():
        return NOTHING_KNOWN
    try:
        tensors, about = load_tensors(path, KIND, VERSION)
    except (EnvironmentFault, RequestError, OSError) as error:
        return Known(np.zeros(0, FACTS), {}, {}, f"all images are decoded again: {error}")
    if about["made_with"] != _made_with():
        return Known(np.zeros(0, FACTS), {}, {}, f"all images are decoded again: {path} is of another version")
    broken, remarks = ({int(key): text for key, text in about[name].items()} for name in ("broken", "remarks"))
    return Known(tensors["rows"].numpy().view(FACTS)[:, 0], broken, remarks)


def save_known(path: Path, audit: Audit) -> None:
    """Writes the facts of all images whose files have a length and a time of change.

    Raises:
        OSError: if `path` cannot be written.
    """
    rows = audit.rows[audit.rows["length"] >= 0]
    rows = np.ascontiguousarray(rows[np.argsort(rows["key"], kind="stable")])
    keys = audit.rows["key"].tolist()
    texts = {
        name: {str(keys[i]): text for i, text in found.items()}
        for name, found in (("broken", audit.broken), ("remarks", audit.remarks))
    }
    table = torch.from_numpy(rows.view(np.uint8).reshape(len(rows), FACTS.itemsize))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, KIND, VERSION, {"rows": table}, {"made_with": _made_with(), **texts})


def _made_with() -> str:
    """What the facts depend on beside the files: the layout of a row and the decoder."""
    return f"pillow {version('pillow')}, {FACTS.descr}"
