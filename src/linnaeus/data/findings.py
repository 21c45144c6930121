"""What the doctor can find, in which words, and how serious it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.duplicates import Twins
from linnaeus.data.facts import Audit
from linnaeus.data.sources import Labels

Severity = Literal["error", "warning", "note"]
Verdict = Literal["unusable", "usable with warnings", "good"]

VERDICTS: dict[Severity, Verdict] = {"error": "unusable", "warning": "usable with warnings", "note": "good"}
"""The verdict is that of the most serious finding; without any, the data is good."""


@dataclass(frozen=True)
class Kind:
    """A heading of the report.

    Attributes:
        title: what is wrong, in a few words.
        severity: an error makes the data unusable, a warning costs accuracy or trust, a note is dealt with.
        advice: what to do, or what is done already.
        quarantined: whether training leaves the files out.
    """

    title: str
    severity: Severity
    advice: str
    quarantined: bool = False


KINDS: dict[str, Kind] = {
    "no_images": Kind("No usable image", "error", "Check the folder, and see why files cannot be read."),
    "one_class": Kind("A single class", "error", "A classifier needs images of at least two classes."),
    "empty_class": Kind("Classes without a usable image", "error", "Add images, or remove these classes."),
    "leak": Kind(
        "Images that are also in a later split",
        "warning",
        "They are left out of training, so that scores stay honest. Remove them, or split again.",
        quarantined=True,
    ),
    "leak_everywhere": Kind(
        "Splits that show the same scenes",
        "warning",
        "Too many to leave out: images of one scene, film or object were split apart. Scores will be far too good. "
        "Split by scene instead.",
    ),
    "two_labels": Kind(
        "The same file under two labels",
        "warning",
        "They are left out, since one of the labels must be wrong. Keep the copy with the right one.",
        quarantined=True,
    ),
    "near_two_labels": Kind(
        "The same picture under two labels",
        "warning",
        "Look at them: they differ in small detail, or a label is wrong.",
    ),
    "suspect_label": Kind(
        "Labels that look wrong",
        "warning",
        "Look at them, the surest first. Where a label is wrong, correct it in your data and train again.",
    ),
    "unreadable": Kind(
        "Files that cannot be decoded", "warning", "They are left out. Save or copy them again.", quarantined=True
    ),
    "constant": Kind(
        "Images of a single colour", "warning", "They are left out: there is nothing to learn from.", quarantined=True
    ),
    "missing_from_split": Kind(
        "Classes missing from a split",
        "warning",
        "What is not in train cannot be learnt; what is not in test has no score. Move images, or split again.",
    ),
    "tiny_class": Kind("Classes with few images", "warning", "Expect them to be recognised badly; add images."),
    "unbalanced": Kind(
        "Unbalanced classes",
        "warning",
        "Judge by balanced accuracy, or mAP where images have several classes, and weigh or resample them in training.",
    ),
    "shift": Kind(
        "Splits that differ",
        "warning",
        "Scores on one will not tell of the other. If this is not on purpose, mix the images and split again.",
    ),
    "animated": Kind("Files with several pictures", "warning", "The first picture alone is used."),
    "extreme_size": Kind(
        "Images of an extreme size",
        "warning",
        "Small ones hold little; of very large ones little is left. Crop or remove.",
    ),
    "extreme_aspect": Kind(
        "Very long or very high images", "warning", "A centre crop sees a small part of them. Crop or remove them."
    ),
    "copies": Kind(
        "Exact copies", "note", "They stay together when splits are carved. Each counts as often as it is there."
    ),
    "near_copies": Kind(
        "Near copies",
        "note",
        "Saved again, resized, mirrored or cropped by a little. Each counts as often as it is there.",
    ),
    "too_alike": Kind(
        "Images too alike to look for near copies",
        "note",
        "Nearly every image resembles nearly every other, as those of a fixed camera do. Exact copies were looked for.",
    ),
    "no_class": Kind(
        "Images without any class", "note", "They teach what none of the classes looks like. Were all of them labelled?"
    ),
    "wrong_extension": Kind(
        "Wrong file extensions", "note", "Decoded by content all the same; other programs may fail."
    ),
    "odd_mode": Kind("Unusual kinds of pixels", "note", "Converted to grey or RGB; transparent parts become white."),
    "odd_depth": Kind("More than 8 bits a channel", "note", "The upper 8 bits are used."),
    "mixed_channels": Kind(
        "Grey and colour images together",
        "note",
        "Grey is repeated for a network of colour. Should all be of one kind?",
    ),
    "exif_rotated": Kind("Turned by EXIF", "note", "Turned upright before use, in training and in prediction."),
    "metadata": Kind("Damaged metadata", "note", "The pixels are whole; a wrong rotation cannot be excluded."),
    "naming": Kind("File names differ between splits", "note", "Do the splits come from different sources?"),
    "ignored": Kind("What was not taken for an image", "note", "Nothing, if these are no images."),
}
"""All kinds of findings, in the order of a report within one severity."""


@dataclass(frozen=True)
class Case:
    """What the checks look at.

    Attributes:
        labels: what the source says of its N images.
        audit: what decoding them told.
        twins: which are copies of which.
        name: position -> what a person calls the image.
    """

    labels: Labels
    audit: Audit
    twins: Twins
    name: Callable[[int], str]

    @property
    def splits(self) -> list[str]:
        """The splits that the source states, in the order in which they use what was learnt."""
        return [split for split in ("train", "val", "test") if (self.labels.splits == split).any()]

    def label_numbers(self) -> NDArray[np.int64]:
        """(N,) equal for images of the same class, or of the same set of classes."""
        if self.labels.targets.ndim == 1:
            return self.labels.targets.astype(np.int64)
        numbers: NDArray[np.int64] = np.unique(self.labels.targets, axis=0, return_inverse=True)[1].reshape(-1)
        return numbers


@dataclass(frozen=True)
class Finding:
    """One thing that is worth knowing.

    Attributes:
        kind: a key of `KINDS`.
        reason: what was found, as a sentence with figures.
        files: position -> what is the matter with this image; empty where the finding is about more than images.
        groups: positions that belong together, such as copies of one image.
        subjects: classes, or files that are no images.
    """

    kind: str
    reason: str
    files: Mapping[int, str] = field(default_factory=dict)
    groups: tuple[tuple[int, ...], ...] = ()
    subjects: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """How serious it is."""
        return KINDS[self.kind].severity


@dataclass(frozen=True)
class Diagnosis:
    """All findings on a set of images."""

    case: Case
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """By the most serious finding."""
        present = {finding.severity for finding in self.findings}
        return next((VERDICTS[severity] for severity in VERDICTS if severity in present), "good")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What costs accuracy or trust, without what is merely good to know."""
        return tuple(finding for finding in self.findings if finding.severity != "note")

    def by_kind(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-ready, with the most serious first; names that are not text are escaped."""
        ordered = sorted(self.findings, key=lambda finding: list(KINDS).index(finding.kind))
        ordered.sort(key=lambda finding: list(VERDICTS).index(finding.severity))
        return {
            "verdict": self.verdict,
            "images": len(self.case.labels),
            "usable": len(self.case.audit.usable),
            "classes": len(self.case.labels.classes),
            "findings": [self._finding(finding) for finding in ordered],
        }

    def _finding(self, finding: Finding) -> dict[str, Any]:
        kind = KINDS[finding.kind]
        return {
            "kind": finding.kind,
            "title": kind.title,
            "severity": kind.severity,
            "reason": printable(finding.reason),
            "advice": kind.advice,
            "quarantined": kind.quarantined,
            "files": [self._file(position, reason) for position, reason in finding.files.items()],
            "groups": [[self._file(position, "") for position in group] for group in finding.groups],
            "subjects": [printable(subject) for subject in finding.subjects],
        }

    def _file(self, position: int, reason: str) -> dict[str, Any]:
        labels = self.case.labels
        name, split = printable(self.case.name(position)), str(labels.splits[position])
        about = {"position": position, "name": name, "label": printable(labels.text(position)), "split": split}
        return {**about, "reason": printable(reason)} if reason else about


def printable(text: str) -> str:
    """Valid Unicode: bytes of a name that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
