"""What is known of each image once it has been decoded: a few flat columns with a value an image, kept between runs.

An image takes 1.2 kB, most of it a thumbnail: a million take 1.2 GB on the disk, of which a start looks at 50 MB,
and no Python object each.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import map_tensors, save_tensors
from linnaeus.data.decode import Pixels
from linnaeus.data.sources import Source

KIND, VERSION = "linnaeus-facts", 2
THUMBNAIL = 32  # pixels a side: enough to tell images apart by, and 1 kB
TINT = 4  # pixels a side of the thumbnail of the colours

FACTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "key": ("<i8", ()),  # hash of the name
    "length": ("<i8", ()),  # bytes of the file, and
    "modified": ("<i8", ()),  # its time of change, ns since 1970: together they say whether the rest is still true
    "digest": ("u1", (16,)),  # hash of the content; zeros if it could not be read
    "shape": ("<i4", (3,)),  # (height, width, channels) after decoding; zeros if that failed
    "grey": ("u1", (THUMBNAIL, THUMBNAIL)),  # thumbnail, each value the average of what it covers
    "tint": ("i1", (TINT, TINT, 2)),  # of the same, red less green and blue less green, halved
    "spread": ("u1", ()),  # largest difference in one channel: within the thumbnail, or, if that is flat, the image
    "format": ("S8", ()),  # Pillow's name, or b"" where the source has no files
    "mode": ("S8", ()),  # Pillow's name of how the pixels are stored
    "bits": ("u1", ()),  # a channel, in the file
    "transparent": ("?", ()),
    "frames": ("<i4", ()),
    "orientation": ("u1", ()),  # EXIF's, 1 to 8; 0 where the source has no files
    "camera": ("S32", ()),
}
"""Column -> (type, shape of a value)."""

Rows = dict[str, NDArray[Any]]
"""The columns of `FACTS`: (N, *shape of a value) each."""

CHUNK = 1 << 14  # names or values at a time


@dataclass(frozen=True)
class Audit:
    """The facts of N images.

    Attributes:
        rows: the columns of `FACTS`, in the order of the source.
        broken: position -> reason, for the images that do not decode.
        remarks: position -> what the decoder found odd in an image that it decoded all the same.
        pixels: position -> (H, W, C) uint8, for small images that were decoded in this run.
        decoded: how many images were decoded in this run; the others were known.
        note: why what was known could not be used, or "".
        names: `hash_names` of the source, or "" where nothing was asked to be remembered.
    """

    rows: Rows
    broken: dict[int, str]
    remarks: dict[int, str]
    pixels: dict[int, Pixels] = field(repr=False)
    decoded: int
    note: str = ""
    names: str = ""

    def __len__(self) -> int:
        return len(self.rows["key"])

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the images that decode."""
        usable = np.ones(len(self), bool)
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


@dataclass(frozen=True)
class Known:
    """What an earlier run learnt; reasons and remarks by the hash of the name.

    Attributes:
        names: hash of all names, in order.
        rows: of M images, in the order of that run. Changes to them stay in this process.
    """

    names: str
    rows: Rows
    broken: dict[int, str]
    remarks: dict[int, str]
    note: str = ""

    def recall(self, source: Source, names: str, stamps: NDArray[np.int64] | None) -> tuple[Audit, NDArray[np.int64]]:
        """What is still true of the images of `source`, and the positions of those that are to be examined.

        Args:
            names: `hash_names` of the source.
            stamps: those of the source; without them nothing can be recalled.
        """
        count = len(source.labels)
        if stamps is None:
            rows = blank(count)
            rows["length"][:] = -1
            return Audit(rows, {}, {}, {}, 0, self.note, names), np.arange(count)
        if names == self.names:
            keys, place = self.rows["key"], np.arange(count)
        else:
            keys = name_keys(source)
            place = self._find(keys)
        still = (place >= 0) & (stamps[:, 0] >= 0)
        for column, name in enumerate(("length", "modified")):
            still[still] = self.rows[name][place[still]] == stamps[still, column]
        pending, old = np.flatnonzero(~still), np.flatnonzero(still)
        rows = self.rows if names == self.names else self._take(old, place, keys)
        for name in rows.keys() - {"key"}:
            rows[name][pending] = 0
        rows["length"][pending], rows["modified"][pending] = stamps[pending].T
        broken, remarks = (_at(old, keys, texts) for texts in (self.broken, self.remarks))
        return Audit(rows, broken, remarks, {}, 0, self.note, names), pending

    def _find(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) for each key the position of the row that has it; -1 if none."""
        own = self.rows["key"]
        if not len(own):
            return np.full(len(keys), -1)
        order = np.argsort(own, kind="stable")
        place = order[np.searchsorted(own, keys, sorter=order).clip(max=len(own) - 1)]
        return np.where(own[place] == keys, place, -1)

    def _take(self, old: NDArray[np.int64], place: NDArray[np.int64], keys: NDArray[np.int64]) -> Rows:
        """New rows, of which those at `old` are known ones, from their `place`."""
        rows = blank(len(keys))
        for start in range(0, len(old), CHUNK):
            part = old[start : start + CHUNK]
            for name, column in self.rows.items():
                rows[name][part] = column[place[part]]
        rows["key"][:] = keys
        return rows


def _at(positions: NDArray[np.int64], keys: NDArray[np.int64], texts: dict[int, str]) -> dict[int, str]:
    """Position -> text, of those positions whose key has one."""
    own = positions[np.isin(keys[positions], np.array(list(texts), np.int64))]
    return {index: texts[int(keys[index])] for index in own.tolist()}


def blank(count: int) -> Rows:
    """Columns of zeros, which take memory as they are filled."""
    return {name: np.zeros((count, *shape), kind) for name, (kind, shape) in FACTS.items()}


NOTHING_KNOWN = Known("", blank(0), {}, {})


def all_names(source: Source) -> Iterator[tuple[int, list[str]]]:
    """All names of a source as (position of the first, some thousand names)."""
    for start in range(0, len(source.labels), CHUNK):
        yield start, source.names(start, min(start + CHUNK, len(source.labels)))


def hash_names(source: Source) -> str:
    """Equal for the same names in the same order."""
    digest = blake2b(digest_size=16)
    for _, names in all_names(source):
        digest.update("\0".join([*names, ""]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def name_keys(source: Source) -> NDArray[np.int64]:
    """(N,) 64 bits of a hash of each name, which may hold bytes that are not text."""
    keys = np.empty(len(source.labels), np.int64)
    for start, names in all_names(source):
        digests = [blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
        keys[start : start + len(names)] = np.frombuffer(b"".join(digests), np.int64)
    return keys


def load_known(path: Path | None) -> Known:
    """What an earlier run wrote to `path`; nothing, with a note, if that is damaged or of another version."""
    if path is None or not path.exists():
        return NOTHING_KNOWN
    try:
        tensors, about = map_tensors(path, KIND, VERSION)
    except (EnvironmentFault, RequestError, OSError) as error:
        return replace(NOTHING_KNOWN, note=f"all images are decoded again: {error}")
    if about["made_with"] != made_with():
        return replace(NOTHING_KNOWN, note=f"all images are decoded again: {path} is of another version")
    rows = {name: tensors[name].numpy().view(kind).reshape(-1, *shape) for name, (kind, shape) in FACTS.items()}
    if hash_rows(rows) != about["identity"]:
        return replace(NOTHING_KNOWN, note=f"all images are decoded again: {path} does not match its checksum")
    broken, remarks = ({int(key): text for key, text in about[name].items()} for name in ("broken", "remarks"))
    return Known(about["names"], rows, broken, remarks)


def save_known(path: Path, audit: Audit) -> None:
    """Writes the facts of all images.

    Raises:
        OSError: if `path` cannot be written.
    """
    keys = audit.rows["key"]
    texts = {
        name: {str(keys[i]): text for i, text in found.items()}
        for name, found in (("broken", audit.broken), ("remarks", audit.remarks))
    }
    # Texts as bytes, since tensors hold numbers only.
    plain = {name: column.view(np.uint8) if column.dtype.kind == "S" else column for name, column in audit.rows.items()}
    tensors = {name: torch.from_numpy(column) for name, column in plain.items()}
    about = {"made_with": made_with(), "names": audit.names, "identity": hash_rows(audit.rows), **texts}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, KIND, VERSION, tensors, about)


def hash_rows(rows: Rows) -> str:
    """Of what a start looks at: which images these are. What else a row says follows from the content of the file."""
    digest = blake2b(digest_size=16)
    for name in ("key", "length", "modified", "digest", "shape"):
        digest.update(np.ascontiguousarray(rows[name]).data)
    return digest.hexdigest()


def made_with() -> str:
    """What the facts depend on beside the files: the columns and the decoder."""
    return f"pillow {version('pillow')}, {FACTS}"
