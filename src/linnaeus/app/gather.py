"""Everything that the report of a run tells, gathered from what the run keeps and, while they are there, its images."""

import csv
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.answers import Answers, answers_file, load_answers
from linnaeus.app.exports import exported
from linnaeus.app.prepare import KIND as FINDINGS_KIND
from linnaeus.app.prepare import VERSION as FINDINGS_VERSION
from linnaeus.app.robustness import KIND as ROBUSTNESS_KIND
from linnaeus.app.robustness import VERSION as ROBUSTNESS_VERSION
from linnaeus.app.run import Run
from linnaeus.app.scoring import Evaluation, evaluate_answers
from linnaeus.core.errors import RequestError
from linnaeus.core.files import read_json
from linnaeus.core.record import read_records
from linnaeus.deploy.bundle import read_about
from linnaeus.metrics.calibrate import Calibration
from linnaeus.metrics.intervals import wilson
from linnaeus.metrics.multilabel import MultiScores
from linnaeus.metrics.probabilities import activate, calibrate, judged_answers
from linnaeus.metrics.robustness import Robustness
from linnaeus.metrics.selective import images_needed, promise
from linnaeus.report.record import ClassRow, Counted, Nearby, Record, Shown, Wish
from linnaeus.report.tables import headlines

NEARBY = ((0.5, 0.6), (0.6, 0.85), (0.85, 0.95), (0.95, 1.0))
"""Confidences that are told of together, by their ends; those near 0.9 lead."""
WISHES = (0.9, 0.95, 0.99)
MISTAKES, SUSPECTS = 12, 12
"""How many are shown."""


@dataclass(frozen=True)
class Kept:
    """What a finished run keeps.

    Attributes:
        about: `model.json`.
        findings: `data/findings.json`.
        counts: (role, label as a cell of a table) -> images, of `data/index.csv`.
    """

    run: Run
    about: dict[str, Any]
    val: Answers
    test: Answers
    findings: dict[str, Any]
    counts: Counter[tuple[str, str]]

    @property
    def calibration(self) -> Calibration:
        """What the model does to its logits."""
        return Calibration.from_json(self.about["calibration"])

    def right(self) -> NDArray[np.bool_]:
        """(N,) whether the model is right about each test image."""
        thresholds = self.about["thresholds"] if self.test.task == "multi" else None
        return judged_answers(calibrate(self.test.logits, self.calibration), self.test.truths, thresholds)[1]


def read_run(run: Run) -> Kept:
    """Reads it.

    Raises:
        RequestError: if the folder is not a finished run, or keeps no answers.
    """
    run.read_config()
    files = [answers_file(run.folder, role) for role in ("val", "test")]
    if not run.finished or not all(file.is_file() for file in files):
        raise RequestError(
            f"{run.folder} keeps no answers for its held-out images ({files[0].parent}): finish it with "
            "`linnaeus resume`, or train it anew if it is of version 0.1.0 or older"
        )
    with (run.data / "index.csv").open(encoding="utf-8", newline="") as file:
        counts = Counter((row["role"], row["label"]) for row in csv.DictReader(file))
    findings = read_json(run.data / "findings.json", FINDINGS_KIND, FINDINGS_VERSION)
    val, test = map(load_answers, files)
    return Kept(run, read_about(run.folder), val, test, findings, counts)


def gather(kept: Kept) -> Record:
    """The record without what needs the images or the network: see `app/report.py` for that."""
    run, about = kept.run, kept.about
    found = evaluate_answers(kept.test, about, "the test images")
    measures = headlines(found.scores)
    if len(about["classes"]) <= 5:
        measures.pop("top-5", None)  # it is 1 whatever the model says
    config = run.read_config()
    suspects = _suspects(run)
    return Record(
        title=run.folder.resolve().name,
        source=config.data.source,
        task=about["task"],
        model=about["architecture"]["name"],
        classes=list(about["classes"]),
        counted=_counted(kept),
        headline=next(iter(measures)),
        measures=measures,
        rows=_rows(kept, found),
        confusion=None if found.confusion is None else found.confusion.tolist(),
        baselines=[],
        curves=_curves(run.folder),
        best_step=run.read_manifest().get("ending", {}).get("best_step"),
        findings=_findings(kept.findings),
        provenance=_provenance(kept),
        calibration=dict(about["calibration"]),
        confidence=dict(about.get("confidence", {})),
        probabilities=found.probabilities,
        nearby=nearby(kept.test, about),
        wishes=wishes(kept.val, kept.test, about),
        slices=found.slices,
        mistakes=_mistakes(kept),
        suspects=suspects and suspects[:SUSPECTS],
        num_suspects=len(suspects or ()),
        robustness=_robustness(run.folder),
        exports=exported(run.folder),
        folder=shlex.quote(str(run.folder)),
        missing={} if suspects is not None else {"suspects": _why_no_suspects(about["task"])},
    )


def _counted(kept: Kept) -> Counted:
    totals: Counter[str] = Counter()
    for (role, _), number in kept.counts.items():
        totals[role] += number
    by_role = {role: totals[role] for role in ("train", "val", "test")}
    return Counted(by_role, list(kept.findings["carved"]), totals.total() - sum(by_role.values()))


def _rows(kept: Kept, found: Evaluation) -> list[ClassRow]:
    trained = dict.fromkeys(found.classes, 0)
    several = isinstance(found.scores, MultiScores)
    for (role, label), number in kept.counts.items():
        if role == "train":
            for name in label.split("|") if several and label else [label] if label else []:
                trained[name] += number
    own = found.scores.per_class
    rows = []
    for k, name in enumerate(found.classes):
        support = own.support[k]
        hits = round(own.recall[k] * support)
        rows.append(
            ClassRow(
                name,
                trained[name],
                support,
                own.precision[k],
                wilson(hits, support) if support else None,
                own.f1[k],
                _taken_for(found, k),
                **_of_several(found, k),
            )
        )
    return rows


def _of_several(found: Evaluation, k: int) -> dict[str, Any]:
    """What is known of a class only where an image may have several."""
    if not isinstance(found.scores, MultiScores):
        return {}
    own = found.scores.per_class
    return {"average_precision": own.average_precision[k], "threshold": own.threshold[k], "said": own.predicted[k]}


def _taken_for(found: Evaluation, k: int) -> tuple[str, int] | None:
    if found.confusion is None:
        return None
    others = found.confusion[k].copy()
    others[k] = 0
    most = int(others.argmax())
    return (found.classes[most], int(others[most])) if others[most] else None


def _curves(folder: Path) -> list[dict[str, float]]:
    """The lines of the record that end an epoch."""
    names = ("step", "train/loss", "train/top1", "train/f1", "val/loss", "val/top1", "val/map")
    lines = [{name: line[name] for name in names if name in line} for line in read_records(folder)]
    return [line for line in lines if "val/loss" in line]


def _findings(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: finding[name] for name in ("severity", "title", "reason", "advice")} | {"images": len(finding["files"])}
        for finding in findings["doctor"]["findings"]
    ]


def nearby(answers: Answers, about: Mapping[str, Any]) -> list[Nearby]:
    """What confidences are worth, of the most probable class; or of every label, where images may have several."""
    several = answers.task == "multi"
    probabilities = activate(calibrate(answers.logits, Calibration.from_json(about["calibration"])), several=several)
    if several:
        sure, right = probabilities.ravel(), answers.truths.ravel()
    else:
        sure = probabilities.max(1)
        right = answers.truths[np.arange(len(answers)), probabilities.argmax(1)]
    found = []
    for low, high in NEARBY:
        own = (sure >= low) & ((sure < high) | (high == 1.0))
        accuracy = wilson(int(right[own].sum()), int(own.sum())) if own.any() else None
        found.append(Nearby(0.9 if (low, high) == (0.85, 0.95) else round((low + high) / 2, 3), low, high, accuracy))
    return found


def wishes(val: Answers, test: Answers, about: Mapping[str, Any]) -> list[Wish]:
    """What val promises, and what became of it on test."""
    calibration = Calibration.from_json(about["calibration"])
    thresholds = about["thresholds"] if val.task == "multi" else None
    judged = [judged_answers(calibrate(own.logits, calibration), own.truths, thresholds) for own in (val, test)]
    (sure, right), (test_sure, test_right) = judged
    found = []
    for wish in WISHES:
        promised, needed = promise(sure, right, wish), images_needed(wish)
        if promised is None:
            found.append(Wish(wish, None, needed))
            continue
        answered = test_sure > promised.threshold
        n = int(answered.sum())
        accuracy = wilson(int(test_right[answered].sum()), n) if n else None
        found.append(Wish(wish, promised.threshold, needed, wilson(n, len(test)), accuracy))
    return found


def _mistakes(kept: Kept) -> list[Shown]:
    """The errors of the surest answers; their pictures come later."""
    if kept.test.task == "multi":
        return []
    calibration = Calibration.from_json(kept.about["calibration"])
    probabilities = activate(calibrate(kept.test.logits, calibration), several=False)
    said, truth = probabilities.argmax(1), kept.test.truths.argmax(1)
    (wrong,) = np.nonzero(said != truth)
    worst = wrong[np.argsort(-probabilities[wrong, said[wrong]], kind="stable")][:MISTAKES]
    classes = kept.test.classes
    return [
        Shown(
            kept.test.names[row],
            "test",
            classes[truth[row]],
            classes[said[row]],
            float(probabilities[row, truth[row]]),
            float(probabilities[row, said[row]]),
        )
        for row in worst.tolist()
    ]


def _suspects(run: Run) -> list[Shown] | None:
    path = run.data / "suspects.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return [_suspect(row) for row in csv.DictReader(file)]


def _suspect(row: Mapping[str, str]) -> Shown:
    own, other = float(row["label_probability"]), float(row["looks_like_probability"])
    return Shown(row["path"], row["role"], row["label"], row["looks_like"], own, other)


def _why_no_suspects(task: str) -> str:
    if task == "multi":
        return "They were not looked for: that needs exactly one class an image, and here images may have several."
    return "They were not looked for: that needs pip install 'linnaeus[doctor]' before training."


def _robustness(folder: Path) -> Robustness | None:
    path = folder / "evaluation" / "robustness.json"
    if not path.is_file():
        return None
    return Robustness.from_json(read_json(path, ROBUSTNESS_KIND, ROBUSTNESS_VERSION))


def _provenance(kept: Kept) -> dict[str, str]:
    manifest, config = kept.run.read_manifest(), kept.run.read_config()
    about = kept.about["architecture"]
    weights = manifest.get("weights")
    return {
        "command": " ".join(map(str, manifest["command"])),
        "network": f"{about['name']}, {about['image_size']} pixels, {about['in_channels']} channel(s)",
        "began with": f"weights of {weights['publisher'] or weights['source']}" if weights else "random weights",
        "training": f"{config.optim.name}, lr {config.optim.lr:.3g}, batch {config.train.batch_size}, "
        f"{config.train.duration}, seed {config.train.seed}, {config.train.precision}",
        "ended": manifest.get("ending", {}).get("stopped") or "as planned",
        "versions": f"linnaeus {manifest['linnaeus']}, torch {manifest['torch']}, python {manifest['python']}",
        "machine": f"{manifest['device']}; {manifest['platform']}",
        "images": f"{config.data.source}, fingerprint {kept.about['data_fingerprint']}",
        "licence": str(kept.about["licence"]),
        "everything": "config.json, manifest.json and metrics.jsonl in the folder of the run",
    }
