"""From answers to everything that is said of a model: scores, trust in its probabilities, slices, promises checked."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from linnaeus.app.answers import Answers
from linnaeus.metrics.calibrate import Calibration
from linnaeus.metrics.conformal import check_sets
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.intervals import Interval, wilson
from linnaeus.metrics.multilabel import MultiScores, summarize_labels
from linnaeus.metrics.novelty import familiarity
from linnaeus.metrics.outputs import Judged
from linnaeus.metrics.probabilities import (
    Probabilities,
    activate,
    calibrate,
    judged_answers,
    summarize_probabilities,
)
from linnaeus.metrics.robustness import Robustness
from linnaeus.metrics.scores import Scores, confusion_array, most_confused, summarize
from linnaeus.metrics.slices import Slice, find_slices
from linnaeus.report.robustness import robustness_tables
from linnaeus.report.tables import class_table, confused_table, confusion_table, headline_table, label_table
from linnaeus.report.trust import check_table, reliability_table, slice_table, trust_table

ROWS_AT_ONCE = 2**22
"""Logits that are counted at a time: in float64 they are 32 MiB."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        what: the images in words.
        confusion: (K, K) counts, rows the truth; None where images may have several classes.
        checks: how the limits of confidence, found on val, do on these images; what in words -> share or number.
        unreadable: name -> reason, for images that were not counted.
        robustness: on spoiled images, where it was asked for.
    """

    what: str
    classes: tuple[str, ...]
    scores: Scores | MultiScores
    confusion: NDArray[np.int64] | None
    probabilities: Probabilities
    slices: list[Slice]
    checks: dict[str, Interval]
    unreadable: dict[str, str] = field(default_factory=dict)
    robustness: Robustness | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "images": self.what,
            "classes": list(self.classes),
            **asdict(self.scores),
            **({} if self.confusion is None else {"confusion": self.confusion.tolist()}),
            "probabilities": asdict(self.probabilities),
            "slices": [{**asdict(each), "fails": each.fails} for each in self.slices],
            "checks": {name: asdict(interval) for name, interval in self.checks.items()},
            "unreadable": self.unreadable,
            **({} if self.robustness is None else {"robustness": self.robustness.to_json()}),
        }

    def tables(self) -> list[Table]:
        """All of it, for a terminal."""
        tables = [headline_table(self.scores, self.what), trust_table(self.probabilities)]
        if isinstance(self.scores, MultiScores):
            tables.append(label_table(self.scores, self.classes))
        else:
            assert self.confusion is not None  # as always where images have one class
            tables.append(class_table(self.scores, self.classes))
            if len(self.classes) <= 20:
                tables.append(confusion_table(self.confusion.tolist(), self.classes))
            pairs = most_confused(self.confusion, 5)
            tables += [confused_table(pairs, self.classes)] if pairs else []
        tables.append(reliability_table(self.probabilities))
        tables += [slice_table(self.slices)] if self.slices else []
        tables += [check_table(self.checks)] if self.checks else []
        return tables if self.robustness is None else [*tables, *robustness_tables(self.robustness)]


def evaluate_answers(answers: Answers, about: Mapping[str, Any], what: str) -> Evaluation:
    """Everything that these answers of the model with `about` as its `model.json` say."""
    calibration = Calibration.from_json(about["calibration"])
    thresholds = about["thresholds"] if answers.task == "multi" else None
    scores, confusion = score(answers, about)
    _, right = judged_answers(calibrate(answers.logits, calibration), answers.truths, thresholds)
    return Evaluation(
        what,
        answers.classes,
        scores,
        confusion,
        summarize_probabilities(answers.logits, answers.truths, calibration, thresholds),
        find_slices(right, answers.columns),
        _checks(answers, about),
    )


def score(answers: Answers, about: Mapping[str, Any]) -> tuple[Scores | MultiScores, NDArray[np.int64] | None]:
    """The scores, and the (K, K) confusion, rows the truth, where images have exactly one class."""
    logits = calibrate(answers.logits, Calibration.from_json(about["calibration"]))
    if answers.task == "multi":
        judged = Judged(logits, activate(logits, several=True), answers.truths)
        return summarize_labels(judged, about["thresholds"]), None
    counts = Counts.zeros(len(answers.classes))
    targets = torch.from_numpy(answers.truths.argmax(1))
    rows = max(1, ROWS_AT_ONCE // logits.shape[1])
    for start in range(0, len(logits), rows):
        part = torch.from_numpy(logits[start : start + rows])
        counts.update(part, targets[start : start + rows], torch.ones(len(part), dtype=torch.bool))
    return summarize(counts), confusion_array(counts)


def _checks(answers: Answers, about: Mapping[str, Any]) -> dict[str, Interval]:
    """The limits that val set, on these images; models of version 1 have none."""
    limits, several = about.get("confidence", {}), answers.task == "multi"
    logits = calibrate(answers.logits, Calibration.from_json(about["calibration"]))
    confidences, right = judged_answers(logits, answers.truths, about["thresholds"] if several else None)
    found, n = {}, len(answers)
    if abstain := limits.get("abstain"):
        answered = confidences > (np.inf if abstain["threshold"] is None else abstain["threshold"])
        found["answered"] = wilson(int(answered.sum()), n)
        if answered.any():
            name = f"right, of those answered (promised: {abstain['min_accuracy']:.3g})"
            found[name] = wilson(int(right[answered].sum()), int(answered.sum()))
    threshold = limits.get("sets", {}).get("threshold")
    if threshold is not None:
        checked = check_sets(activate(logits, several=False), answers.truths.argmax(1), threshold)
        found[f"candidates hold the truth (promised: {limits['sets']['coverage']:.3g})"] = checked.coverage
        found["candidates, classes"] = checked.size
    threshold = limits.get("familiarity", {}).get("threshold")
    if threshold is not None:
        familiar = familiarity(torch.from_numpy(answers.logits), several=several).numpy()
        expected = f"{limits['familiarity']['false_alarms']:.3g}"
        name = f"called unlike the training images (expected of images like them: {expected})"
        found[name] = wilson(int((familiar < threshold).sum()), n)
    return found
