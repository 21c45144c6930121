"""Any set of images into few large files: tar shards or Parquet, which copy, stream and read faster than many small.

What was finished before an interruption is kept: a journal in the folder names each file with its checksum.
"""

import hashlib
import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.config import DataConfig
from linnaeus.app.prepare import columns
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, Interrupted, RequestError
from linnaeus.core.files import atomic, read_json, write_json, write_text
from linnaeus.data.findings import printable
from linnaeus.data.pack import WRITERS, Format, Sample, try_encoded
from linnaeus.data.sources import Source, open_source
from linnaeus.data.sources.shard_names import index_name
from linnaeus.data.sources.tar import save_index, scan

KIND, VERSION = "linnaeus-pack", 1
JOURNAL = ".pack.json"  # hidden: other libraries take every other .json in a folder for data
SHARD_SIZE = 256_000_000
QUALITY = 90
_UNNAMED = "data"  # how files begin whose images have no split
_AHEAD = 32  # images that are read at the same time


@dataclass(frozen=True)
class Packing:
    """How to pack.

    Attributes:
        format: of the files.
        size: bytes of a file, about; None for one file a split.
        max_side: pixels; larger images are made smaller. None leaves every file as it is.
        quality: of the JPEG files that these become.
    """

    format: Format = "shards"
    size: int | None = SHARD_SIZE
    max_side: int | None = None
    quality: int = QUALITY


@dataclass(frozen=True)
class Entry:
    """A finished file: the images of one split from position `start` up to `stop`, without those left out.

    Attributes:
        encoded: how many images were encoded anew.
        left_out: name -> reason.
    """

    name: str
    split: str
    start: int
    stop: int
    images: int
    encoded: int
    size: int
    sha256: str
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """What was packed, and where."""

    out: Path
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        left_out = {name: reason for entry in self.entries for name, reason in entry.left_out.items()}
        return {
            "out": str(self.out),
            "files": [entry.name for entry in self.entries],
            "images": sum(entry.images for entry in self.entries),
            "bytes": sum(entry.size for entry in self.entries),
            "encoded": sum(entry.encoded for entry in self.entries),
            "left_out": left_out,
        }


def pack(config: DataConfig, out: Path, packing: Packing, display: Display) -> Packed:
    """Packs all images that can be decoded, with their labels and splits, into the folder `out`.

    Nothing is quarantined: copies and odd images are kept, and training on the result judges them as it would have.
    Called again after an interruption, it keeps the finished files and goes on.

    Raises:
        RequestError: if there is no such set, or `out` holds something else.
        DataError: if the set cannot be used, or none of its images can be read.
        Interrupted: after Ctrl-C.
    """
    _check_folder(out)
    source = open_source(config.source, columns(config), bar=display.bar)
    for note in source.labels.notes:
        display.say(note)
    fingerprint = _fingerprint(source, packing)
    known = _known(out, fingerprint)
    out.mkdir(parents=True, exist_ok=True)
    if packing.format == "shards":
        write_text(out / "classes.json", json.dumps(source.labels.classes, ensure_ascii=False) + "\n")
    splits = source.labels.splits
    with display.bar("packing", len(source.labels)) as advance, ThreadPoolExecutor() as pool:
        work = _Work(source, out, packing, fingerprint, known, pool, advance)
        try:
            for split in dict.fromkeys(splits.tolist()):
                work.pack_split(split, np.flatnonzero(splits == split))
        except KeyboardInterrupt:
            message = f"interrupted; {len(work.entries):,} finished file(s) are kept: the same command goes on"
            raise Interrupted(message, signal.SIGINT) from None
    if work.kept:
        display.say(f"{work.kept:,} file(s) were finished before and are kept")
    packed = Packed(out, tuple(work.entries))
    _tell(packed, source, packing, display)
    return packed


def _check_folder(out: Path) -> None:
    try:
        taken = out.exists() and not out.is_dir()
        if taken or (out.is_dir() and any(out.iterdir()) and not (out / JOURNAL).is_file()):
            raise RequestError(f"{out} exists already and holds something else: choose another folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out} cannot be made: {error.strerror}") from None


def _fingerprint(source: Source, packing: Packing) -> str:
    """Of the options, and of every image's name, label, split, length and time of change."""
    labels = source.labels
    digest = blake2b(json.dumps([asdict(packing), labels.classes]).encode(), digest_size=16)
    stamps = source.stamps()
    for index in range(len(labels)):
        known = stamps is not None and stamps[index, 0] >= 0
        stamp = tuple(stamps[index].tolist()) if stamps is not None and known else None
        line = f"{source.name(index)}\0{labels.text(index)}\0{labels.splits[index]}\0{stamp}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _known(out: Path, fingerprint: str) -> dict[tuple[str, int], Entry]:
    """The files that the journal says are finished, by their split and start."""
    if not (out / JOURNAL).is_file():
        return {}
    journal = read_json(out / JOURNAL, KIND, VERSION)
    if journal["fingerprint"] != fingerprint:
        raise RequestError(
            f"{out} was packed from other images or with other options: remove it, or choose another folder"
        )
    entries = [Entry(**content) for content in journal["files"]]
    return {(entry.split, entry.start): entry for entry in entries}


@dataclass
class _Work:
    """One packing: a file after the other, each a function of the position where it starts."""

    source: Source
    out: Path
    packing: Packing
    fingerprint: str
    known: dict[tuple[str, int], Entry]
    pool: ThreadPoolExecutor
    advance: Callable[[int], None]
    entries: list[Entry] = field(default_factory=list)
    kept: int = 0

    def pack_split(self, split: str, rows: NDArray[np.int64]) -> None:
        """Packs the images at `rows`."""
        start = number = 0
        while start < len(rows):
            entry = self.known.get((split, start))
            if entry is not None and _is_whole(self.out, entry):
                self.kept += 1
                self.advance(entry.stop - start)
                self.entries.append(entry)
            else:
                entry = self._write(split, number, rows, start)
                self.entries.append(entry)
                self._note()
            start, number = entry.stop, number + 1

    def _write(self, split: str, number: int, rows: NDArray[np.int64], start: int) -> Entry:
        labels, packing = self.source.labels, self.packing
        path = self.out / _file_name(split, number, packing)
        left_out: dict[str, str] = {}
        images = anew = filled = 0
        stop = start
        several = labels.task == "multi"
        with (
            atomic(path) as temporary,
            closing(WRITERS[packing.format](temporary, labels.classes, several=several)) as writer,
        ):
            for index, found in self._samples(rows, start):
                if isinstance(found, Sample):
                    if images and packing.size is not None and filled + found.weight > packing.size:
                        break
                    writer.add(found)
                    images, anew, filled = images + 1, anew + found.is_anew, filled + found.weight
                else:
                    left_out[printable(self.source.name(index))] = printable(found)
                stop += 1
                self.advance(1)
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if packing.format == "shards" and images:
                file.seek(0)
                save_index(Path(index_name(str(path))), scan(file), str(size))
        return Entry(path.name, split, start, stop, images, anew, size, checksum, left_out)

    def _samples(self, rows: NDArray[np.int64], start: int) -> Iterator[tuple[int, Sample | str]]:
        """(position in the source, sample or why there is none), in order; some are read ahead."""
        read = partial(try_encoded, self.source, max_side=self.packing.max_side, quality=self.packing.quality)
        for first in range(start, len(rows), _AHEAD):
            indices = rows[first : first + _AHEAD].tolist()
            for index, found in zip(indices, self.pool.map(read, indices), strict=True):
                yield (
                    index,
                    found
                    if isinstance(found, str)
                    else Sample(_key(self.source, index), *found[:2], self._classes(index), found[2]),
                )

    def _classes(self, index: int) -> tuple[int, ...]:
        targets = self.source.labels.targets
        return (int(targets[index]),) if targets.ndim == 1 else tuple(np.flatnonzero(targets[index]).tolist())

    def _note(self) -> None:
        """Writes the journal: what is done, and what an earlier call did and this one has not come to yet."""
        done = {(entry.split, entry.start): entry for entry in self.entries}
        files = [asdict(entry) for entry in (self.known | done).values()]
        write_json(self.out / JOURNAL, KIND, VERSION, {"fingerprint": self.fingerprint, "files": files})


def _key(source: Source, index: int) -> str:
    """A name of its own, which tells the image's old one: `00000012-cat_IMG_1` of cat/IMG_1.jpg."""
    name = source.name(index)
    stem = name[: name.rfind(".")] if "." in name.rpartition("/")[2] else name
    old = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[-48:].lstrip("_")
    return f"{index:08d}-{old}" if old else f"{index:08d}"


def _file_name(split: str, number: int, packing: Packing) -> str:
    if packing.format == "shards":
        return f"{split or _UNNAMED}-{number:06d}.tar"
    return f"{split or _UNNAMED}.parquet" if packing.size is None else f"{split or _UNNAMED}-{number:05d}.parquet"


def _is_whole(out: Path, entry: Entry) -> bool:
    path = out / entry.name
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256


def _tell(packed: Packed, source: Source, packing: Packing, display: Display) -> None:
    about = packed.to_json()
    left_out = [f"{name} ({reason})" for name, reason in about["left_out"].items()]
    if not about["images"]:
        raise DataError(f"none of the {len(source.labels)} images can be read; the first, {left_out[0]}")
    display.show(
        f"{about['images']:,} images of {len(source.labels.classes):,} classes in {len(about['files']):,} file(s), "
        f"{about['bytes'] / 1e6:,.1f} MB: {packed.out}"
    )
    if about["encoded"]:
        how = "as PNG" if packing.max_side is None else f"upright, at most {packing.max_side} pixels a side"
        display.show(f"{about['encoded']:,} of them were encoded anew, {how}; the others are the files as they were")
    if left_out:
        more = f"; and {len(left_out) - 3:,} more in {packed.out / JOURNAL}" if len(left_out) > 3 else ""
        display.show(f"{len(left_out):,} unreadable, left out: {'; '.join(left_out[:3])}{more}")
    display.show("Copies and odd images are kept: `linnaeus train` judges them as it does those of any other set")
