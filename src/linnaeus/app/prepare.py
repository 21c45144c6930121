"""From DATA to images with roles: opened, audited, split, and written down."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.config import DataConfig
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, EnvironmentFault
from linnaeus.core.files import atomic, user_cache, write_json
from linnaeus.core.runtime import Task
from linnaeus.data.doctor import Audit, audit, diagnose
from linnaeus.data.facts import all_names
from linnaeus.data.findings import KINDS, Diagnosis, printable
from linnaeus.data.quarantine import read_quarantine, to_quarantine, write_quarantine
from linnaeus.data.sources import NAMED, Columns, Source, open_source
from linnaeus.data.sources.subset import take_per_class
from linnaeus.data.split import ROLES, Split, assign_roles

KIND, VERSION = "linnaeus-findings", 1


@dataclass(frozen=True)
class Prepared:
    """A source with what is known of each of its images."""

    source: Source
    audit: Audit
    diagnosis: Diagnosis
    quarantine: dict[int, str]
    split: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        return self.source.labels.classes

    @property
    def task(self) -> Task:
        """Whether an image has exactly one class, or any number of them."""
        return self.source.labels.task

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every image's name, content and role: equal only for the same data in the same roles."""
        digest, unread = blake2b(digest_size=16), bytes(16)
        for start, names in all_names(self.source):
            own = slice(start, start + len(names))
            contents = self.audit.digests[own].tolist()
            roles = self.split.roles[own].tolist()
            lines = (
                f"{name}\0{role}\0".encode("utf-8", "surrogateescape") + (content if content != unread else b"")
                for name, role, content in zip(names, roles, contents, strict=True)
            )
            digest.update(b"".join(lines))
        return digest.hexdigest()

    def summary(self) -> list[str]:
        """What a person should know before training, in lines."""
        roles = self.split.roles
        counts = {role: int((roles == role).sum()) for role in ROLES}
        parts = [f"{n:,} {role}" + (" (carved)" if role in self.split.carved else "") for role, n in counts.items()]
        lines = [*self.source.labels.notes]
        lines += [f"{sum(counts.values()):,} images of {len(self.classes)} classes{self._labels()}: {', '.join(parts)}"]
        # What is quarantined is in the lines below, with its reasons.
        told = [finding for finding in self.diagnosis.warnings if not KINDS[finding.kind].quarantined]
        lines += [f"{KINDS[finding.kind].title}: {printable(finding.reason)}" for finding in told]
        broken = self.audit.broken
        if broken:
            lines.append(f"{len(broken):,} unreadable, skipped: {self._examples(broken)}")
        if self.split.left_out:
            lines.append(f"{len(self.split.left_out):,} left out of training: {self._examples(self.split.left_out)}")
        return lines

    def _labels(self) -> str:
        """How many classes an image has, where that is not one."""
        if self.task == "single":
            return ""
        numbers = self.source.labels.targets[self.split.roles != ""].sum(1)
        none = int((numbers == 0).sum())
        return f", {numbers.mean():.1f} labels an image" + (f" ({none:,} without any)" if none else "")

    def _examples(self, reasons: dict[int, str], limit: int = 3) -> str:
        shown = [f"{self.source.name(index)} ({reason})" for index, reason in list(reasons.items())[:limit]]
        more = len(reasons) - len(shown)
        return "; ".join(shown) + (f"; and {more:,} more in data/findings.json" if more else "")


def prepare(config: DataConfig, *, seed: int, display: Display, run_data: Path | None = None) -> Prepared:
    """Opens, audits and splits; the same for the same data, configuration and seed.

    Args:
        run_data: the `data/` of a run, whose roles are taken as they are written there: what the doctor or a list of
            the user's would say today does not change a run that has begun.

    Raises:
        LinnaeusError: as the stages do; a `DataError` when no image decodes.
    """
    source = open_source(config.source, columns(config), bar=display.bar)
    if config.limit is not None:
        source = take_per_class(source, config.limit, seed=seed)
    found, diagnosis = examine(source, config, display)
    if not len(found.usable):
        index, reason = next(iter(found.broken.items()))
        raise DataError(
            f"none of the {len(source.labels)} images can be read; the first, {source.name(index)}: {reason}"
        )
    _check_classes(diagnosis)
    if run_data is not None:
        return Prepared(source, found, diagnosis, {}, Split(read_roles(run_data, source)[0], {}, ()))
    quarantine = _quarantine(config, diagnosis, display)
    split = assign_roles(
        source.labels,
        found,
        val_share=config.val_share,
        test_share=config.test_share,
        seed=seed,
        twins=diagnosis.case.twins,
        quarantine=quarantine,
    )
    return Prepared(source, found, diagnosis, quarantine, split)


def examine(source: Source, config: DataConfig, display: Display) -> tuple[Audit, Diagnosis]:
    """Decodes every image, or recalls what is known of an unchanged one, and draws the doctor's conclusions."""
    facts = _facts_file(config)
    with display.bar("checking images", len(source.labels)) as advance:
        found = audit(source, progress=advance, cache=facts)
    if found.note:
        display.say(found.note)
    return found, diagnose(source, found, kept=None if facts is None else facts.with_suffix(".conclusions"))


def _facts_file(config: DataConfig) -> Path | None:
    """Where the facts about the images of one set are kept between runs; None for parts and built-in sets."""
    path = Path(config.source)
    if config.limit is not None or config.source in NAMED:
        return None
    what = path.resolve() if path.exists() else config.source
    name = blake2b(os.fsencode(what), digest_size=12).hexdigest()
    return user_cache("facts") / f"{name}.safetensors"


def _quarantine(config: DataConfig, diagnosis: Diagnosis, display: Display) -> dict[int, str]:
    """Whom to leave out: the user's list, or else the doctor's."""
    if config.quarantine is None:
        return to_quarantine(diagnosis)
    case = diagnosis.case
    listed, unknown = read_quarantine(Path(config.quarantine), len(case.labels), case.name)
    if unknown:
        display.say(f"{config.quarantine} lists {len(unknown):,} image(s) that are not there, such as {unknown[0]}")
    return listed


def columns(config: DataConfig) -> Columns:
    """The columns of a table that are meant."""
    return Columns(config.path_column, config.label_column, config.split_column)


def _check_classes(diagnosis: Diagnosis) -> None:
    case = diagnosis.case
    counts = case.labels.counts(case.audit.usable)
    if counts.min() == 0:
        name = case.labels.classes[int(counts.argmin())]
        raise DataError(f"class '{name}' has no image that can be read: mend or remove its folder")
    for finding in diagnosis.by_kind("one_class"):
        raise DataError(f"{finding.reason} {KINDS[finding.kind].advice}")


def write_records(folder: Path, prepared: Prepared) -> None:
    """Writes a run's `data/`: `index.csv`, a row an image; `findings.json`; `quarantine.csv`, what was left out."""
    folder.mkdir()
    with atomic(folder / "index.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a name with a "\r" is torn
        writer.writerow(["name", "label", "role", "height", "width", "channels", "digest"])
        for start, names in all_names(prepared.source):
            writer.writerows(_rows(prepared, start, names))
    write_json(folder / "findings.json", KIND, VERSION, _findings(prepared))
    write_quarantine(folder / "quarantine.csv", prepared.quarantine, prepared.source.name)


def _rows(prepared: Prepared, start: int, names: list[str]) -> Iterator[tuple[str | int, ...]]:
    """Rows of the index, for the images from `start` on."""
    own, labels = slice(start, start + len(names)), prepared.source.labels
    texts = map(labels.text, range(start, start + len(names)))
    shapes = prepared.audit.rows["shape"][own].T.tolist()
    contents = prepared.audit.digests[own].tolist()
    digests = (content.hex() if any(content) else "" for content in contents)
    return zip(map(_text, names), texts, prepared.split.roles[own].tolist(), *shapes, digests, strict=True)


def read_roles(folder: Path, source: Source) -> tuple[NDArray[np.str_], dict[str, str]]:
    """The roles of a run's images, from its `data/index.csv`.

    Returns:
        (N,) str, of the images of `source`, "" for those that the index does not have; and name -> role of those that
        the index has and the source has not.

    Raises:
        EnvironmentFault: if it is missing or damaged.
    """
    roles = np.zeros(len(source.labels), "U5")
    known = (_text(name) for _, names in all_names(source) for name in names)
    unmatched: dict[str, int] = {}
    others: dict[str, str] = {}
    try:
        with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            columns = itemgetter(*map(next(rows, []).index, ("name", "role")))
            # Side by side, since nearly always both are in the same order: a dictionary of a million names is large.
            for index, (name, row) in enumerate(zip_longest(known, map(columns, rows))):
                if row is not None and row[0] == name:
                    roles[index] = row[1]
                    continue
                unmatched.update({} if name is None else {name: index})
                others.update({} if row is None else [row])
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise EnvironmentFault(f"{folder / 'index.csv'} cannot be read: {error}") from None
    for name in unmatched.keys() & others.keys():
        roles[unmatched[name]] = others.pop(name)
    return roles, others


def _findings(prepared: Prepared) -> dict[str, Any]:
    source, found = prepared.source, prepared.audit
    return {
        "images": len(source.labels),
        "channels": _counts(found.rows["shape"][found.usable, 2]),
        "unreadable": {image_name(source, i): reason for i, reason in found.broken.items()},
        "left_out": {image_name(source, i): reason for i, reason in prepared.split.left_out.items()},
        "not_taken_for_images": [_text(name) for name in source.labels.ignored],
        "carved": list(prepared.split.carved),
        "fingerprint": prepared.fingerprint,
        "doctor": prepared.diagnosis.to_json(),
    }


def _counts(numbers: NDArray[np.int32]) -> dict[str, int]:
    """How often each number is there, in the order of their first appearance."""
    values, first, counts = np.unique(numbers, return_index=True, return_counts=True)
    return {str(values[k]): int(counts[k]) for k in np.argsort(first).tolist()}


def image_name(source: Source, index: int) -> str:
    """An image's name as it stands in the index: valid text, with escapes for bytes that are not UTF-8."""
    return _text(source.name(index))


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
