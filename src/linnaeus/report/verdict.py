"""What a run is worth, in words: how good, how sure, on what, against what, what to worry about, what to do next."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from linnaeus.metrics.reliability import Bin
from linnaeus.metrics.scores import most_confused
from linnaeus.report import labels
from linnaeus.report.record import ClassRow, LearningCurve, Nearby, Record
from linnaeus.report.words import between, counted, number, of_hundred, points

Tone = Literal["good", "fair", "bad"]

WIDE = 0.1
"""An interval this wide leaves open whether a model is good."""
MISCALIBRATED = 0.02
"""Probabilities that are off by more, for certain, are told of."""
MEMORISED = 0.1
"""Of the training images so many more are known than of those of val: the network learns them by heart."""
FRAGILE = 0.75
"""Where a corruption leaves less of the accuracy than this it is told of."""
WORTHWHILE = 0.01
"""Twice the images are worth their while if they bring this much accuracy."""
SAID = 3
"""Classes or slices that are named in a sentence."""


@dataclass(frozen=True)
class Verdict:
    """The head of a report.

    Attributes:
        title: how good.
        summary: how good for what, in a few words.
        lines: how sure, on what, against what, what is confused, what a confidence is worth.
        worries, steps: what to mind, and what to do next, the most important first.
    """

    tone: Tone
    title: str
    summary: str
    lines: list[str]
    worries: list[str]
    steps: list[str]

    def text(self) -> list[str]:
        """All of it in lines, for a terminal."""
        lines = [f"{self.title}. {self.summary}.", *self.lines]
        for title, own in (("What to worry about", self.worries), ("What to do next", self.steps)):
            lines += ["", f"{title}:", *(f"- {line}" for line in own)] if own else []
        return lines

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return asdict(self)


def judge(record: Record) -> Verdict:
    """The verdict on a run."""
    worries = list(_worries(record))
    beaten = [baseline for baseline in record.baselines if baseline.gain.low <= 0]
    if record.task == "multi" and record.top.low <= labels.chance(record):
        tone, summary = "bad", "Not clearly better than chance: it does not tell the images of a class from others"
    elif beaten and beaten[0] is record.baselines[0]:
        tone, summary = "bad", f"Not clearly better than this: {beaten[0].name}"
    elif beaten:
        tone, summary = "fair", f"Better than guessing, but not clearly than this: {beaten[0].name}"
    elif worries:
        tone, summary = "fair", f"It has learnt its task, with {counted(len(worries), 'thing')} to mind"
    else:
        tone, summary = "good", "It has learnt its task, and nothing speaks against these figures"
    return Verdict(tone, _title(record), summary, list(_lines(record)), worries, list(_steps(record)))  # type: ignore[arg-type]


def _title(record: Record) -> str:
    if record.task == "single":
        return f"Right for {of_hundred(record.top)} images like these"
    return labels.title(record)


def _lines(record: Record) -> Iterator[str]:
    yield from labels.lines(record) if record.task == "multi" else _accuracy_lines(record)
    for baseline in record.baselines:
        yield (
            f"For comparison: {baseline.name} is right for {of_hundred(baseline.accuracy)}. The model gains "
            f"{points(baseline.gain)}."
        )
    yield from _confused(record)
    for near in record.nearby:
        if near.stated == 0.9:
            yield worth(near, record.task)


def _accuracy_lines(record: Record) -> Iterator[str]:
    top = record.top
    yield (
        f"For new images of the same kind: {number(top.low, top.n)} to {number(top.high, top.n)} of 100, with 95% "
        f"confidence, as judged by {top.n:,} test images, {record.counted.origin}. The model has not learnt from them. "
        "Images of another camera, place or time can be harder."
    )
    yield (
        f"So expect {number(1 - top.high, top.n)} to {number(1 - top.low, top.n)} wrong answers in 100 on average: "
        "whether that is good enough depends on what a wrong answer costs."
    )


def worth(near: Nearby, task: str) -> str:
    """What confidences near a number are worth, in a sentence; of single labels where an image may have several."""
    said = f"{100 * near.low:.0f} to {100 * near.high:.0f}%{' of a label' if task == 'multi' else ''}"
    if near.accuracy is None:
        return f"It says {said} for no test image, so that nothing is known of such answers."
    return f"When it says {said} it is right {of_hundred(near.accuracy)} times ({between(near.accuracy)})."


def _confused(record: Record) -> Iterator[str]:
    if record.confusion is None:
        return
    names, pairs = record.classes, most_confused(np.array(record.confusion), SAID)
    said = "; ".join(
        f"'{names[truth]}' taken for '{names[other]}' ({count:,} of {sum(record.confusion[truth]):,})"
        for truth, other, count in pairs
    )
    yield f"Most often confused: {said}." if pairs else "It confuses none of the test images."


def _worries(record: Record) -> Iterator[str]:
    top = record.top
    if top.high - top.low > WIDE:
        yield (
            f"The test is small: {counted(top.n, 'image')} cannot tell {number(top.low, top.n)} from "
            f"{number(top.high, top.n)} of 100."
        )
    if record.num_suspects:
        judged = record.counted.by_role.get("val", 0) + record.counted.by_role.get("test", 0)
        yield (
            f"{counted(record.num_suspects, 'label looks', 'labels look')} wrong among {judged:,} held-out images "
            f"({record.num_suspects / max(1, judged):.1%}): so far the figures here may be off, and the training "
            "images may have as many."
        )
    yield from _trust_worries(record)
    failing = [each for each in record.slices if each.fails]
    for each in sorted(failing, key=lambda each: each.p_value)[:SAID]:
        yield (
            f"Worse than elsewhere by more than chance where {each.column} is '{each.value}': right for "
            f"{of_hundred(each.accuracy)} ({between(each.accuracy)}), elsewhere for "
            f"{number(each.rest, each.accuracy.n)}."
        )
    if weak := weak_classes(record):
        said = "; ".join(
            f"'{row.name}' ({of_hundred(row.recall)}, {between(row.recall)})"
            for row in weak[:SAID]
            if row.recall is not None
        )
        yield f"Found less often than the others: {said}" + (f"; and {len(weak) - SAID} more." if weak[SAID:] else ".")
    if record.task == "multi":
        yield from labels.worries(record)
    yield from _training_worries(record)
    yield from _robustness_worries(record)


def weak_classes(record: Record) -> list[ClassRow]:
    """Classes whose recall lies below that of all images together, by more than chance, the weakest first."""
    if record.task == "multi":
        return []
    bar = record.top.low
    weak = [row for row in record.rows if row.recall is not None and row.recall.high < bar]
    return sorted(weak, key=lambda row: row.recall.value if row.recall else 1.0)


def _trust_worries(record: Record) -> Iterator[str]:
    if record.probabilities is None:
        return
    error, bins = record.probabilities.after.calibration_error, record.probabilities.after.reliability
    if error.low > MISCALIBRATED:
        way = "too sure of itself" if _leaning(bins) > 0 else "less sure than it could be"
        yield (
            f"Its confidence is off by {100 * error.value:.1f} points on average (95% interval {100 * error.low:.1f} "
            f"to {100 * error.high:.1f}): it is {way}. Do not read its percentages as chances."
        )


def _leaning(bins: list[Bin]) -> float:
    """Above zero where answers are surer than they are right."""
    total = sum(each.accuracy.n for each in bins)
    return sum((each.confidence - each.accuracy.value) * each.accuracy.n for each in bins) / max(1, total)


def _training_worries(record: Record) -> Iterator[str]:
    told = [finding["title"] for finding in record.findings if finding["severity"] == "warning"]
    told = [title for title in told if title != "Labels that look wrong"]
    if told:
        more = f" and {len(told) - SAID} more" if told[SAID:] else ""
        yield f"The doctor warns of the images: {'; '.join(told[:SAID])}{more}. See below."
    best = best_epoch(record)
    if best is not None and best["step"] == 0 and len(record.curves) > 1:
        yield (
            "Training the network itself helped nothing: the model is the linear head that was fitted before, and no "
            "epoch was better on val. A smaller --lr may do better; `--recipe probe` gives the same in less time."
        )
    if best is None or "train/top1" not in best or "val/top1" not in best:
        return
    if best["train/top1"] - best["val/top1"] > MEMORISED:
        yield (
            f"It knows {best['train/top1']:.0%} of its training images and {best['val/top1']:.0%} of others: it learns "
            "them by heart rather than what they have in common."
        )


def best_epoch(record: Record) -> dict[str, float] | None:
    """The line of the record whose state became the model."""
    name = "val/top1" if record.task == "single" else "val/map"
    told = [line for line in record.curves if name in line]
    known = next((line for line in told if line["step"] == record.best_step), None)
    return known or max(told, key=lambda line: (line[name], -line.get("val/loss", 0.0)), default=None)


def _robustness_worries(record: Record) -> Iterator[str]:
    found = record.robustness
    if found is None or not found.clean.value:
        return
    left = found.worst.score.value / found.clean.value
    if left < FRAGILE:
        yield (
            f"It does not stand every camera: of its {found.measure} {left:.0%} is left on images with this: "
            f"{found.worst.words}."
        )


def _steps(record: Record) -> Iterator[str]:
    urgent = list(_urgent(record))
    yield from urgent
    curve = record.learning
    if curve is not None and curve.doubled is not None and curve.is_own and _gain(curve) <= WORTHWHILE:
        yield "More images of the same kind would bring little: look at the errors and labels instead."
    kept = [wish for wish in record.wishes if wish.threshold is not None and wish.coverage is not None]
    if kept and kept[-1].coverage is not None and kept[-1].coverage.value < 1:
        wish = kept[-1]
        assert wish.coverage is not None
        rightly = f", {of_hundred(wish.accuracy)} of these rightly" if wish.accuracy is not None else ""
        yield (
            f"Where errors are dear, let it say 'not sure': with `--min-accuracy {wish.min_accuracy:g}` it answers "
            f"{of_hundred(wish.coverage)} test images{rightly}, and people the rest."
        )
    if not urgent and not record.exports and all(baseline.gain.low > 0 for baseline in record.baselines):
        yield (
            f"Take it to where it is needed: `linnaeus export {record.path}` writes it for other runtimes, and "
            "refuses what answers worse there."
        )


def _gain(curve: LearningCurve) -> float:
    """The accuracy that twice the images would bring."""
    return 0.0 if curve.doubled is None else curve.doubled.value - curve.points[-1].accuracy


def _urgent(record: Record) -> Iterator[str]:
    """What comes before the model is put to use."""
    if record.num_suspects:
        yield "Look at the labels that look wrong (data/suspects.csv lists them), correct your data, and train again."
    curve = record.learning
    best, told = best_epoch(record), record.curves
    if best is not None and len(told) > 1 and best is told[-1]:
        yield "It was still improving when training ended: train longer (a larger --epochs or --duration)."
    if curve is not None and _gain(curve) > WORTHWHILE:
        first = " and ".join(f"'{name}'" for name, gained in curve.gains[:2] if gained > 0)
        whom = "" if curve.is_own else "even to a plain linear model "
        yield f"Collect more images: twice as many would bring {whom}about {100 * _gain(curve):+.1f} points" + (
            f", first of all to {first}." if first else "."
        )
    if record.top.high - record.top.low > WIDE:
        yield "Set more images aside for the test, so that its figures become sharper."
