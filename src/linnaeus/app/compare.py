"""Several runs judged on the same test images: which is better, and whether these images can tell."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from linnaeus.app.answers import Answers, answers_file, load_answers
from linnaeus.app.run import Run
from linnaeus.app.scoring import Evaluation, evaluate_answers
from linnaeus.core.errors import RequestError
from linnaeus.deploy.bundle import read_about
from linnaeus.metrics.calibrate import Calibration, likelihoods
from linnaeus.metrics.compare import Comparison, compare_answers, compare_losses, in_words
from linnaeus.metrics.probabilities import calibrate, judged_answers


@dataclass(frozen=True)
class Told:
    """Two runs on their common images, the second against the first.

    Attributes:
        num_common: images that both were tested on, with the same truth.
        num_first, num_second: images that each was tested on.
    """

    first: str
    second: str
    num_common: int
    num_first: int
    num_second: int
    comparisons: tuple[Comparison, ...]

    def lines(self) -> list[str]:
        """The verdicts in words."""
        only = ""
        if self.num_common < max(self.num_first, self.num_second):
            only = f" (of {self.num_first:,} and {self.num_second:,}; a copy of an image does not count again)"
        head = f"{self.second} against {self.first}: {self.num_common:,} common test images{only}"
        lines = [head, *(f"  {in_words(own, self.first, self.second)}" for own in self.comparisons)]
        for own in self.comparisons:
            if own.p_value is not None:
                counts = f"{own.only_first:,} images only by {self.first}, {own.only_second:,} only by {self.second}"
                lines.append(f"  answered rightly: {counts}; McNemar's exact p = {own.p_value:.3g}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """All of it, with the verdicts."""
        content = asdict(self)
        content["comparisons"] = [
            {**asdict(own), "verdict": own.verdict, "words": in_words(own, self.first, self.second)}
            for own in self.comparisons
        ]
        return content


def report(folder: Path) -> Evaluation:
    """The evaluation of a finished run, from the answers that it keeps.

    Raises:
        RequestError: if it keeps none.
    """
    return evaluate_answers(_answers(folder), read_about(folder), f"test images of {folder}")


def compare(folders: list[Path]) -> list[Told]:
    """Each run but the first against the first, on the test images that both have.

    Images are the same if their contents are. Compared are the answers (right in every respect) and the log-loss.

    Raises:
        RequestError: if a run keeps no answers, the classes differ, or no test image is common.
    """
    judged = [(str(folder), _answers(folder), read_about(folder)) for folder in folders]
    if len({name for name, _, _ in judged}) < len(judged):
        raise RequestError("the same run twice: expected different ones")
    return [_tell(judged[0], other) for other in judged[1:]]


def comparison_table(told: list[Told]) -> Table:
    """Every run with its accuracy on the common images and the difference."""
    table = Table(title="Compared on common test images", title_justify="left")
    for column in ("run", "against", "measure", "value", "before", "difference", "95% interval", "images"):
        table.add_column(column, justify="left" if column in ("run", "against", "measure") else "right")
    for pair in told:
        for own in pair.comparisons:
            form = "{:.4f}" if own.lower_is_better else "{:.1%}"
            values = (form.format(value) for value in (own.second, own.first))
            gap = own.difference
            ends = f"{form.format(gap.low)} to {form.format(gap.high)}"
            table.add_row(pair.second, pair.first, own.measure, *values, form.format(gap.value), ends, f"{gap.n:,}")
    return table


def _answers(folder: Path) -> Answers:
    Run(folder).read_config()  # says so if it is not the folder of a run
    file = answers_file(folder, "test")
    if not Run(folder).finished or not file.is_file():
        raise RequestError(
            f"{folder} keeps no answers for its test images ({file}): finish it with `linnaeus resume`, or train it "
            "anew if it is of version 0.1.0 or older"
        )
    return load_answers(file)


def _tell(first: tuple[str, Answers, dict[str, Any]], second: tuple[str, Answers, dict[str, Any]]) -> Told:
    if set(first[1].classes) != set(second[1].classes) or first[1].task != second[1].task:
        raise RequestError(f"{first[0]} and {second[0]} have different classes: only runs with the same are comparable")
    place = np.array([second[1].classes.index(name) for name in first[1].classes])
    mine, yours = _common(first[1], second[1], place)
    if not len(mine):
        raise RequestError(
            f"{first[0]} and {second[0]} have no test image in common: compare them by `linnaeus evaluate RUN DATA` on "
            "images that neither has learnt from"
        )
    right, losses = [], []
    for (_, answers, about), rows in ((first, mine), (second, yours)):
        own = answers.take(rows)
        logits = calibrate(own.logits, Calibration.from_json(about["calibration"]))
        thresholds = about["thresholds"] if own.task == "multi" else None
        right.append(judged_answers(logits, own.truths, thresholds)[1])
        losses.append(likelihoods(logits, own.truths, own.task == "multi"))
    comparisons = (compare_answers(*right), compare_losses("log-loss", *losses))
    return Told(first[0], second[0], len(mine), len(first[1]), len(second[1]), comparisons)


def _common(first: Answers, second: Answers, place: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the images that both have, with the same truth; copies within one set count once."""
    rows = {digest.tobytes(): row for row, digest in reversed(list(enumerate(second.digests)))}
    pairs: dict[bytes, tuple[int, int]] = {}
    for row, digest in enumerate(first.digests):
        key = digest.tobytes()
        if key in rows and key not in pairs and any(key):
            other = rows[key]
            if np.array_equal(first.truths[row], second.truths[other][place]):
                pairs[key] = (row, other)
    found = np.array(list(pairs.values()), np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]
