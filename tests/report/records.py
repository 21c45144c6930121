"""Records of made-up runs, whose faults are known because they were planted."""

from dataclasses import replace

import numpy as np

from linnaeus.app.answers import Answers
from linnaeus.app.gather import nearby, wishes
from linnaeus.app.scoring import evaluate_answers
from linnaeus.metrics.compare import compare_answers
from linnaeus.metrics.intervals import Interval, wilson
from linnaeus.metrics.slices import Column
from linnaeus.report.exported import Covered, Exported, Judged
from linnaeus.report.page import data_uri
from linnaeus.report.record import Baseline, ClassRow, Counted, LearningCurve, Point, Record, Shown, Speed
from linnaeus.report.tables import headlines

PIXEL = data_uri(np.zeros((8, 8, 3), np.uint8))
ABOUT = {"calibration": {"method": "none", "temperature": 1.0}}


def answers(n: int = 600, *, classes: int = 4, sharpen: float = 1.0, dark: float = 0.0, seed: int = 0) -> Answers:
    """Answers whose probabilities are true: the truth is drawn from them.

    Args:
        sharpen: factor of the logits afterwards; above 1 the model is too sure of itself.
        dark: share of the dark images, a quarter of all, whose truth is drawn anew: on these the model fails.
    """
    rng = np.random.default_rng(seed)
    logits = 3.0 * rng.standard_normal((n, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (probabilities.cumsum(1) > rng.random((n, 1))).argmax(1)
    is_dark = rng.random(n) < 0.25
    anew = is_dark & (rng.random(n) < dark)
    truth[anew] = rng.integers(0, classes, anew.sum())
    names = tuple(f"class {truth[i]}/{i}.jpg" for i in range(n))
    column = Column(("bright", "dark"), is_dark.astype(np.int32))
    digests = np.zeros((n, 16), np.uint8)
    return Answers(
        "single",
        tuple(f"class {k}" for k in range(classes)),
        names,
        np.arange(n),
        digests,
        (sharpen * logits).astype(np.float32),
        np.arange(classes) == truth[:, None],
        {"light": column},
    )


def judged(lost: int, gained: int, n: int = 600, gap: float = 0.1) -> Judged:
    """An artefact that answers so many images otherwise than its network."""
    before = np.arange(n) >= 60
    after = before.copy()
    after[60 : 60 + lost] = False
    after[:gained] = True
    return Judged(
        "test images of photos/",
        wilson(int(after.sum()), n),
        compare_answers(before, after).difference,
        wilson(n - lost - gained, n),
        gap,
        Interval(lost / n, lost / n - 0.01, lost / n + 0.01, n),
    )


def exports() -> list[Exported]:
    """One artefact of each verdict."""
    covered = Covered(49 / 50, 0.97, 0.62)
    return [
        Exported("onnx:f32", "delivered", [], judged(0, 0, gap=2e-6), bytes=13_600_000),
        Exported("onnx:int8", "warned", ["600 images are too few."], judged(5, 2), covered, ["head"], 3_800_000),
        Exported("torchscript:tutorial-int8", "refused", ["it loses 5.0 points."], judged(30, 0), covered),
        Exported("coreml:f16", "not scored", ["Core ML runs on macOS alone."], bytes=6_800_000),
    ]


def record(test: Answers | None = None, **changes) -> Record:
    """A whole record of a run with these answers for its test images."""
    test = answers() if test is None else test
    found = evaluate_answers(test, ABOUT, "the test images")
    own, confusion = found.scores.per_class, found.confusion
    right = test.logits.argmax(1) == test.truths.argmax(1)
    guess = test.truths[:, 0]
    rows = [
        ClassRow(
            name,
            100,
            own.support[k],
            own.precision[k],
            wilson(int(confusion[k, k]), own.support[k]) if own.support[k] else None,
            own.f1[k],
        )
        for k, name in enumerate(test.classes)
    ]
    guessing = Baseline(
        f"always saying '{test.classes[0]}'",
        wilson(int(guess.sum()), len(test)),
        compare_answers(guess, right).difference,
    )
    points = [Point(n, 0.9 - 0.4 * (n / 50) ** -0.5, 0.88 - 0.4 * (n / 50) ** -0.5, 0.9) for n in (50, 100, 200, 400)]
    made = Record(
        title="photos-1",
        source="photos/",
        task="single",
        model="resnet18",
        classes=list(test.classes),
        counted=Counted({"train": 400, "val": 600, "test": len(test)}, ["val", "test"], 3),
        headline="top-1",
        measures=headlines(found.scores),
        rows=rows,
        confusion=confusion.tolist(),
        baselines=[guessing],
        curves=[
            {
                "step": n,
                "train/loss": 2 / n,
                "val/loss": 2 / n + 0.1,
                "train/top1": 1 - 0.5 / n,
                "val/top1": 0.9 - 0.4 / n,
            }
            for n in range(1, 8)
        ],
        findings=[
            {
                "severity": "warning",
                "title": "Unbalanced classes",
                "reason": "One is rare.",
                "advice": "Weigh.",
                "images": 0,
            },
            {"severity": "note", "title": "Exact copies", "reason": "2 are.", "advice": "None.", "images": 2},
        ],
        provenance={"command": "linnaeus train photos/", "licence": "not stated", "machine": "cpu, 2 threads"},
        calibration=dict(ABOUT["calibration"]),
        probabilities=found.probabilities,
        nearby=nearby(test, ABOUT),
        wishes=wishes(answers(seed=1), test, ABOUT),
        slices=found.slices,
        mistakes=[Shown("a/1.jpg", "test", "class 0", "class 1", 0.01, 0.97, PIXEL, PIXEL)],
        suspects=[],
        learning=LearningCurve("pixels", True, points, wilson(520, 600), [("class 2", 0.04), ("class 1", 0.01)]),
        exports=exports(),
        speed=Speed(12.3, 15.0, 180.0, 32, "cpu, 2 threads, torch 2.14.1", 11_000_000, 44_800_000),
    )
    return replace(made, **changes)
