"""The doctor: every image is decoded once, before training, and what is wrong with the set is told with reasons.

`audit` reads and decodes; `diagnose` draws the conclusions. Nothing of the user's is ever changed.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import EnvironmentFault
from linnaeus.data.check_classes import check_class_sizes, check_splits, check_without_class
from linnaeus.data.check_copies import check_copies, check_leaks, check_two_labels
from linnaeus.data.check_images import (
    CONSTANT,
    check_aspect,
    check_constant,
    check_extensions,
    check_frames,
    check_ignored,
    check_metadata,
    check_modes,
    check_orientation,
    check_size,
    check_unreadable,
)
from linnaeus.data.conclusions import keep, mark_of, recall
from linnaeus.data.decode import Pixels, UnreadableImage, inspect, thumbnail
from linnaeus.data.duplicates import find_twins
from linnaeus.data.facts import (
    NOTHING_KNOWN,
    THUMBNAIL,
    TINT,
    hash_names,
    load_known,
    save_known,
)
from linnaeus.data.facts import Audit as Audit
from linnaeus.data.findings import Case, Diagnosis, Finding
from linnaeus.data.shift import check_naming, check_shift
from linnaeus.data.sources import Source

CHECKS: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    check_leaks,
    check_two_labels,
    check_unreadable,
    check_constant,
    check_class_sizes,
    check_splits,
    check_without_class,
    check_shift,
    check_frames,
    check_size,
    check_aspect,
    check_copies,
    check_extensions,
    check_modes,
    check_orientation,
    check_metadata,
    check_naming,
    check_ignored,
)
"""Everything that is looked for. A check takes the case and gives its findings."""

_CHUNK = 64  # images a task: enough to hide the pool's overhead, few enough for a smooth progress bar
_KEPT_BYTES = 256 << 20  # of the pixels of small images: CIFAR's fit, those of a million images do not
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def audit(
    source: Source,
    *,
    keep_below: int = 64,
    progress: Callable[[int], None] | None = None,
    cache: Path | None = None,
) -> Audit:
    """Decodes every image of a source, on all cores.

    Args:
        source: where the images are.
        keep_below: images whose sides are at most this long keep their pixels, some hundred MB of them, so that they
            need not be decoded again.
        progress: called with the number of images done since the last call.
        cache: file of what earlier runs learnt, read and renewed; images whose file has not changed since, by the
            source's stamps, are not decoded again. A damaged one is replaced, and one that cannot be written is done
            without.
    """
    stamps = None if cache is None else source.stamps()
    known = NOTHING_KNOWN if cache is None or stamps is None else load_known(cache)
    names = "" if cache is None else hash_names(source)
    work = _Pass(source, keep_below, *known.recall(source, names, stamps))
    starts = range(0, len(work.pending), _CHUNK)
    if progress is not None:
        progress(len(source.labels) - len(work.pending))
    # Threads, not processes: Pillow releases the interpreter's lock while it decodes, and a thread needs no start-up.
    with _hear_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for count in pool.map(work.examine_chunk, starts):
            if progress is not None:
                progress(count)
    found = work.result()
    has_learnt = names != known.names or (found.rows["length"][work.pending] >= 0).any()
    return _save(cache, found) if cache is not None and stamps is not None and has_learnt else found


def diagnose(source: Source, found: Audit, *, kept: Path | None = None) -> Diagnosis:
    """Runs every check of `CHECKS` on what `audit` found in `source`.

    Args:
        kept: file of the conclusions of an earlier run, taken if they were drawn from the same, and else renewed.
    """
    mark = "" if kept is None else mark_of(source.labels, found)
    recalled = None if kept is None else recall(kept, mark, len(found))
    if recalled is not None:
        twins, findings = recalled
        return Diagnosis(Case(source.labels, found, twins, source.name), findings)
    case = Case(source.labels, found, find_twins(found), source.name)
    diagnosis = Diagnosis(case, tuple(finding for check in CHECKS for finding in check(case)))
    if kept is not None:
        keep(kept, mark, diagnosis)
    return diagnosis


def _save(path: Path, found: Audit) -> Audit:
    try:
        save_known(path, found)
    except (OSError, EnvironmentFault) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        return replace(found, note=f"the next run decodes all images again: {path} cannot be written ({reason})")
    # From here on mapped from the disk: only what is looked at takes memory.
    return replace(found, rows=load_known(path).rows)


@dataclass
class _Pass:
    """One pass over the images. Threads fill different places of the same columns."""

    source: Source
    keep_below: int
    found: Audit
    pending: NDArray[np.int64]
    kept_bytes: int = 0

    def examine_chunk(self, start: int) -> int:
        """Examines pending images from `start` on; how many."""
        indices = self.pending[start : start + _CHUNK].tolist()
        thumbnails: dict[int, Pixels] = {}
        for index in indices:
            try:
                thumbnails[index] = self._examine(index)
            except OSError as error:
                self.found.broken[index] = f"cannot be read ({error.strerror or error})"
                self.found.rows["length"][index] = -1  # to be tried again
            except UnreadableImage as error:
                self.found.broken[index] = str(error)
        for channels in (1, 3):
            own = [index for index, small in thumbnails.items() if small.shape[2] == channels]
            if own:
                self._note_thumbnails(np.array(own), np.stack([thumbnails[index] for index in own]))
        return len(indices)

    def _examine(self, index: int) -> Pixels:
        content, rows = self.source.read(index), self.found.rows
        rows["digest"][index] = np.frombuffer(blake2b(content, digest_size=16).digest(), np.uint8)
        _heard.texts = []
        pixels = self.source.decode(content)
        if len(content) != pixels.size:  # else it is the pixels themselves, and no file
            self._note_file(index, content)
        if _heard.texts:
            self.found.remarks[index] = "; ".join(dict.fromkeys(_heard.texts))
        rows["shape"][index] = pixels.shape
        if max(pixels.shape[:2]) <= self.keep_below and self.kept_bytes < _KEPT_BYTES:
            self.found.pixels[index] = pixels
            self.kept_bytes += pixels.nbytes  # two threads may lose a sum: the limit is a rough one
        small = thumbnail(pixels, THUMBNAIL)
        # Fine lines may average out.
        rows["spread"][index] = spread if (spread := _spread(small)) > CONSTANT else _spread(pixels)
        return small

    def _note_thumbnails(self, indices: NDArray[np.int64], small: Pixels) -> None:
        """(M, 32, 32, 1 or 3): together, since a hundred small computations cost more than one large."""
        if small.shape[3] == 1:
            self.found.rows["grey"][indices] = small[:, :, :, 0]
            return
        self.found.rows["grey"][indices] = small @ _LUMA + 0.5
        side = THUMBNAIL // TINT
        means = small.reshape(-1, TINT, side, TINT, side, 3).mean((2, 4), dtype=np.float32)
        self.found.rows["tint"][indices] = (means[:, :, :, [0, 2]] - means[:, :, :, [1]]) / 2

    def _note_file(self, index: int, content: bytes) -> None:
        facts = inspect(content)
        if facts is None:
            return
        for name in ("format", "mode", "bits", "transparent", "frames", "orientation"):
            self.found.rows[name][index] = getattr(facts, name)
        self.found.rows["camera"][index] = facts.camera.encode("utf-8", "replace")

    def result(self) -> Audit:
        """What was found, in the order of the source."""
        broken, remarks = (dict(sorted(part.items())) for part in (self.found.broken, self.found.remarks))
        return replace(self.found, broken=broken, remarks=remarks, decoded=len(self.pending))


def _spread(pixels: Pixels) -> int:
    """The largest difference of two pixels in one channel."""
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(pixels.shape[2], -1)
    return int((channels.max(1) - channels.min(1)).max())


class _Heard(threading.local):
    """What this thread was warned of since it began its image; None in a thread that decodes none."""

    texts: list[str] | None = None


_heard = _Heard()


@contextmanager
def _hear_warnings() -> Iterator[None]:
    """Keeps what Pillow warns of while an image is decoded, instead of printing it: it belongs to that image.

    Python's filters are common to all threads, so they are set once, around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if _heard.texts is None:
                show(message, category, *where, **more)
            elif "decompression bomb" not in str(message):  # the size is a finding of its own
                _heard.texts.append(" ".join(str(message).split()))

        warnings.showwarning = keep
        yield
