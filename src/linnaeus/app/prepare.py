"""From DATA to images with roles: opened, audited, split, and written down."""

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from linnaeus.app.config import DataConfig
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, EnvironmentFault
from linnaeus.core.files import user_cache, write_json, write_text
from linnaeus.core.runtime import Task
from linnaeus.data.doctor import Audit, audit, diagnose
from linnaeus.data.findings import KINDS, Diagnosis, printable
from linnaeus.data.quarantine import read_quarantine, to_quarantine, write_quarantine
from linnaeus.data.sources import Columns, Source, open_source
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

    def fingerprint(self) -> str:
        """A hash of every image's name, content and role: equal only for the same data in the same roles."""
        digest = blake2b(digest_size=16)
        for index, finding in enumerate(self.audit.findings):
            line = f"{self.source.name(index)}\0{self.split.roles[index]}\0".encode("utf-8", "surrogateescape")
            digest.update(line + finding.digest)
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


def prepare(config: DataConfig, *, seed: int, display: Display, roles: Mapping[str, str] | None = None) -> Prepared:
    """Opens, audits and splits; the same for the same data, configuration and seed.

    Args:
        roles: those that a run has written down (`read_roles`), to be taken as they are: what the doctor or a list of
            the user's would say today does not change a run that has begun.

    Raises:
        LinnaeusError: as the stages do; a `DataError` when no image decodes.
    """
    source = open_source(config.source, columns(config))
    if config.limit is not None:
        source = take_per_class(source, config.limit, seed=seed)
    found, diagnosis = examine(source, config, display)
    if not len(found.usable):
        index, reason = next(iter(found.broken.items()))
        raise DataError(
            f"none of the {len(source.labels)} images can be read; the first, {source.name(index)}: {reason}"
        )
    _check_classes(diagnosis)
    if roles is not None:
        given = np.array([roles.get(image_name(source, index), "") for index in range(len(source.labels))], "U5")
        return Prepared(source, found, diagnosis, {}, Split(given, {}, ()))
    quarantine = _quarantine(config, diagnosis, display)
    split = assign_roles(
        source.labels,
        found,
        val_share=config.val_share,
        test_share=config.test_share,
        seed=seed,
        families=diagnosis.case.twins.families(),
        quarantine=quarantine,
    )
    return Prepared(source, found, diagnosis, quarantine, split)


def examine(source: Source, config: DataConfig, display: Display) -> tuple[Audit, Diagnosis]:
    """Decodes every image, or recalls what is known of an unchanged one, and draws the doctor's conclusions."""
    with display.bar("checking images", len(source.labels)) as advance:
        found = audit(source, progress=advance, cache=_facts_file(config), stamp=source.stamp)
    if found.note:
        display.say(found.note)
    return found, diagnose(source, found)


def _facts_file(config: DataConfig) -> Path | None:
    """Where the facts about the images of one folder or table are kept between runs; None for sets without a path."""
    path = Path(config.source)
    if config.limit is not None or not path.exists():
        return None
    name = blake2b(os.fsencode(path.resolve()), digest_size=12).hexdigest()
    return user_cache("facts") / f"{name}.safetensors"


def _quarantine(config: DataConfig, diagnosis: Diagnosis, display: Display) -> dict[int, str]:
    """Whom to leave out: the user's list, or else the doctor's."""
    if config.quarantine is None:
        return to_quarantine(diagnosis)
    case = diagnosis.case
    listed, unknown = read_quarantine(Path(config.quarantine), len(case.labels), case.name)
    if unknown:
        display.say(f"{config.quarantine} lists {len(unknown):,} images that are not there, such as {unknown[0]}")
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
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a name with a "\r" is torn
    writer.writerow(["name", "label", "role", "height", "width", "channels", "digest"])
    labels = prepared.source.labels
    for index, finding in enumerate(prepared.audit.findings):
        label, role = labels.text(index), prepared.split.roles[index]
        writer.writerow([image_name(prepared.source, index), label, role, *finding.shape, finding.digest.hex()])
    write_text(folder / "index.csv", table.getvalue())
    write_json(folder / "findings.json", KIND, VERSION, _findings(prepared))
    write_quarantine(folder / "quarantine.csv", prepared.quarantine, prepared.source.name)


def read_roles(folder: Path) -> dict[str, str]:
    """Name -> role, from a run's `data/index.csv`.

    Raises:
        EnvironmentFault: if it is missing or damaged.
    """
    try:
        with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
            return {row["name"]: row["role"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise EnvironmentFault(f"{folder / 'index.csv'} cannot be read: {error}") from None


def _findings(prepared: Prepared) -> dict[str, Any]:
    source, found = prepared.source, prepared.audit
    return {
        "images": len(source.labels),
        "channels": dict(Counter(str(c) for c in found.shapes[found.usable, 2].tolist())),
        "unreadable": {image_name(source, i): reason for i, reason in found.broken.items()},
        "left_out": {image_name(source, i): reason for i, reason in prepared.split.left_out.items()},
        "not_taken_for_images": [_text(name) for name in source.labels.ignored],
        "carved": list(prepared.split.carved),
        "fingerprint": prepared.fingerprint(),
        "doctor": prepared.diagnosis.to_json(),
    }


def image_name(source: Source, index: int) -> str:
    """An image's name as it stands in the index: valid text, with escapes for bytes that are not UTF-8."""
    return _text(source.name(index))


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
