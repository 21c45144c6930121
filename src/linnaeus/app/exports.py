"""The table of all that was exported of a model, delivered or refused: `exports.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from linnaeus.core.files import read_json, write_json
from linnaeus.deploy.coverage import Coverage
from linnaeus.deploy.gate import Score, Verdict
from linnaeus.deploy.qat import Tuning
from linnaeus.metrics.intervals import Interval
from linnaeus.report.exported import Covered, Exported, Judged
from linnaeus.report.words import whole_percent

KIND, VERSION = "linnaeus-exports", 1
FILE = "exports.json"


@dataclass(frozen=True)
class Attempt:
    """One artefact that was made, or could not be.

    Attributes:
        name: `onnx:int8`.
        coverage: what is computed in 8 bits, where it was to be.
        size: bytes of what a runtime loads.
        float_layers: that were left in floating point, for the sake of accuracy.
        tuning: what was done to the weights before quantization; None for nothing.
    """

    name: str
    verdict: Verdict
    coverage: Coverage | None = None
    size: int = 0
    float_layers: tuple[str, ...] = ()
    tuning: Tuning | None = None

    @property
    def place(self) -> str:
        """Its folder in `exports/`."""
        return self.name.replace(":", "-")

    def lines(self) -> list[str]:
        """The verdict in words."""
        head = f"{self.name}: {self.verdict.outcome}"
        return [head if not self.verdict.reasons else f"{head}: {'; '.join(self.verdict.reasons)}"]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)


def from_json(content: dict[str, Any]) -> Attempt:
    """Of `exports.json`."""
    coverage, verdict = content["coverage"], content["verdict"]
    score = verdict["score"]
    if score is not None:
        names = ("accuracy", "change", "agreement", "loss_change")
        score = Score(**{**score, **{name: Interval(**score[name]) for name in names}})
    if coverage is not None:
        pairs = {name: tuple(coverage[name]) for name in ("convolutions", "linears", "left")}
        coverage = Coverage(**{**coverage, **pairs})
    tuning = content.get("tuning")  # none in files of before there was any
    return Attempt(
        content["name"],
        Verdict(verdict["outcome"], tuple(verdict["reasons"]), score),
        coverage,
        content["size"],
        tuple(content["float_layers"]),
        None if tuning is None else Tuning(**tuning),
    )


def write_attempts(folder: Path, attempts: list[Attempt]) -> None:
    """Writes `exports.json` of a run or a model."""
    write_json(folder / FILE, KIND, VERSION, {"exports": [attempt.to_json() for attempt in attempts]})


def read_attempts(folder: Path) -> list[Attempt]:
    """What was tried before; nothing where there is no such file."""
    if not (folder / FILE).is_file():
        return []
    return [from_json(each) for each in read_json(folder / FILE, KIND, VERSION)["exports"]]


def exported(folder: Path) -> list[Exported]:
    """What was tried, as a report tells it; nothing where there is no `exports.json`."""
    return [_told(attempt) for attempt in read_attempts(folder)]


def _told(attempt: Attempt) -> Exported:
    verdict = attempt.verdict
    return Exported(
        attempt.name,
        verdict.outcome,
        list(verdict.reasons),
        None if verdict.score is None else _judged(verdict.score),
        None if attempt.coverage is None else _covered(attempt.coverage),
        list(attempt.float_layers),
        attempt.size,
        attempt.tuning.in_words() if attempt.tuning else "",
    )


def _judged(score: Score) -> Judged:
    return Judged(score.images, score.accuracy, score.change, score.agreement, score.gap, score.loss_change)


def _covered(coverage: Coverage) -> Covered:
    return Covered(coverage.layers, coverage.weights, coverage.macs)


def exports_table(attempts: list[Attempt]) -> Table:
    """A row an artefact."""
    scores = [attempt.verdict.score for attempt in attempts if attempt.verdict.score]
    title = f"Judged on {scores[0].change.n:,} {scores[0].images}" if scores else "Exports"
    table = Table(title=title, title_justify="left", caption=_CAPTION, caption_justify="left")
    for column in ("artefact", "verdict"):
        table.add_column(column, no_wrap=True)
    for column in ("accuracy", "change", "agrees", "gap", "in 8 bits", "MB"):
        table.add_column(column, justify="right", no_wrap=column != "in 8 bits")
    for attempt in attempts:
        colour = {"delivered": "green", "warned": "yellow", "refused": "red"}.get(attempt.verdict.outcome, "")
        outcome = f"[{colour}]{attempt.verdict.outcome}[/]" if colour else attempt.verdict.outcome
        table.add_row(attempt.name, outcome, *_figures(attempt))
    return table


_CAPTION = (
    "change: points of accuracy against the network on the same images, with the paired 95% interval. agrees: images "
    "with the same answer. gap: the largest of any probability. in 8 bits: share of the multiply-accumulates."
)


def _figures(attempt: Attempt) -> list[str]:
    score, size = attempt.verdict.score, f"{attempt.size / 1e6:.2f}" if attempt.size else "-"
    covered = whole_percent(attempt.coverage.macs) if attempt.coverage else "-"
    if score is None:
        return [*("-" for _ in range(4)), covered, size]
    change = score.change
    return [
        f"{score.accuracy.value:.1%}",
        f"{100 * change.value:+.1f}\n{100 * change.low:.1f} to {100 * change.high:.1f}",
        f"{score.agreement.value:.1%}",
        f"{score.gap:.1g}",
        covered,
        size,
    ]


def size_of(folder: Path) -> int:
    """Bytes of what a runtime loads, of the files of an artefact."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if path.relative_to(folder).parts[0].startswith("model"))


def figures(attempts: list[Attempt]) -> dict[str, Any]:
    """All of it, for machines."""
    return {"exports": [attempt.to_json() for attempt in attempts]}
