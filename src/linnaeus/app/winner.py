"""What a search hands over: the winner as a file of settings, all trials as a table, pictures, and the verdict."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from linnaeus import __version__
from linnaeus.app.config import Config
from linnaeus.app.run import command_line, from_anywhere
from linnaeus.app.search import Tried
from linnaeus.app.space import Value, with_values
from linnaeus.core.files import write_text
from linnaeus.metrics.difference import newcombe
from linnaeus.metrics.intervals import wilson
from linnaeus.report.search_plots import history_plot, importance_plot

SHOWN = 5
"""How many of the best trials are printed."""
OF_THE_MACHINE = ("precision", "channels_last", "compile")
"""Of `train`, what was measured here: the winner's file leaves it open, or as it was given."""


@dataclass(frozen=True)
class Winner:
    """A search with its best trial.

    Attributes:
        trials: all, in their order; the first has the defaults.
        shared: what each of them was trained for, such as 6ep.
        images: of val.
        importances: setting -> share; {} where nothing can be said.
    """

    folder: Path
    trials: Sequence[Tried]
    shared: str
    images: int
    importances: Mapping[str, float]

    @property
    def best(self) -> Tried:
        """The trial that came to its end with the best score; of equal ones the first."""
        return max(self.trials, key=lambda tried: tried.rank)

    @property
    def file(self) -> Path:
        """All settings of the best trial."""
        return self.folder / "best.yaml"

    def to_json(self) -> dict[str, Any]:
        """The verdict for machines."""
        best, defaults = self.best, self.trials[0]
        return {
            "folder": str(self.folder),
            "config": str(self.file),
            "trials": len(self.trials),
            "to_their_end": sum(not tried.ended for tried in self.trials),
            "trained_for": self.shared,
            "measure": defaults.measure,
            "images": self.images,
            "best": {"trial": best.number, "score": best.score, "settings": best.values},
            "defaults": {"score": defaults.score},
            "importances": dict(self.importances),
        }


def write_best(winner: Winner, given: Config, trial: Config) -> None:
    """Writes `best.yaml` and `trials.csv`, for a look and for good.

    Args:
        given: the configuration of the search, as it was told.
        trial: that of a trial, complete.
    """
    best, defaults = winner.best, winner.trials[0]
    found = with_values(trial, best.values)
    kept = {name: getattr(given.train, name) for name in (*OF_THE_MACHINE, "duration")}
    data = {
        "source": from_anywhere(given.data.source),
        "workers": given.data.workers,
        "cache_gib": given.data.cache_gib,
    }
    complete = found.replace(train=kept, data=data)
    header = (
        f"# Trial {best.number} of {len(winner.trials)}, found by linnaeus {__version__} tune: {defaults.measure} "
        f"{_score(best.score)} after {winner.shared}, against {_score(defaults.score)} with the defaults.\n"
        f"# val chose it, so that score is optimistic. Train with it for train.duration, and read the test score:\n"
        f"#   linnaeus train DATA --config {winner.file.name}\n"
    )
    write_text(winner.file, header + yaml.safe_dump(complete.model_dump(), sort_keys=False, width=120))
    write_text(winner.folder / "trials.csv", _table(winner))


def _table(winner: Winner) -> str:
    paths = list(dict.fromkeys(path for tried in winner.trials for path in tried.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "measure", "score", "evaluations", "seconds", "ended", *paths])
    for tried in winner.trials:
        score = f"{tried.score:.6f}" if tried.curve else ""
        row = (tried.number, tried.measure, score, len(tried.curve), f"{tried.seconds:.1f}", tried.ended)
        writer.writerow([*row, *(tried.values.get(path, "") for path in paths)])
    return text.getvalue()


def draw(winner: Winner) -> list[str]:
    """Draws `history.svg`, and `importance.svg` where there is anything to say; the names of what was drawn."""
    scores = [(tried.score if tried.curve else None, not tried.ended) for tried in winner.trials]
    measure = winner.trials[0].measure
    history_plot(winner.folder / "history.svg", scores, measure=measure, shared=f"each trained for {winner.shared}")
    if not winner.importances:
        return ["history.svg"]
    finished = sum(not tried.ended for tried in winner.trials)
    importance_plot(winner.folder / "importance.svg", winner.importances, trials=finished)
    return ["history.svg", "importance.svg"]


def best_table(winner: Winner) -> Table:
    """The best trials, and that with the defaults."""
    table = Table(title=f"The best of {len(winner.trials)} trials of {winner.shared}, on val", title_justify="left")
    for column in ("trial", winner.trials[0].measure, "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right", overflow="fold")
    leading = sorted(winner.trials, key=lambda tried: tried.rank, reverse=True)[:SHOWN]
    for tried in leading + [winner.trials[0]] * (winner.trials[0] not in leading):
        table.add_row(str(tried.number), _score(tried.score), in_short(tried.values))
    return table


def in_short(values: Mapping[str, Value]) -> str:
    """Settings by the last part of their names; "the defaults" for none."""
    shown = (f"{path.rpartition('.')[2]} {value}" for path, value in values.items())
    return ", ".join(shown) or "the defaults"


def verdict(winner: Winner, source: str) -> str:
    """What won, by how much, how sure that is, and what to do now."""
    best, defaults, n = winner.best, winner.trials[0], winner.images
    if best is defaults:
        return f"The defaults won: {_with_interval(defaults, n)}. None of {len(winner.trials) - 1} others beat it."
    return (
        f"Trial {best.number} won: {_with_interval(best, n)}, against {_score(defaults.score)} with the defaults: "
        f"{_gain(best, defaults, n)}.\nval chose the best of {len(winner.trials)} trials, so its score there is "
        f"optimistic. Train with it, and read the test score:\n"
        f"  {command_line('train', source, '--config', winner.file)}"
    )


def _with_interval(tried: Tried, n: int) -> str:
    if tried.measure != "val/top1":
        return f"{tried.measure} {_score(tried.score)} (n = {n:,})"
    interval = wilson(round(tried.score * n), n)
    return f"{tried.measure} {interval}"


def _gain(best: Tried, defaults: Tried, n: int) -> str:
    if best.measure != "val/top1":
        return f"a gain of {best.score - defaults.score:.4f}"
    gain = newcombe((round(defaults.score * n), n), (round(best.score * n), n))
    words = f"{100 * gain.value:+.1f} points (95% interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return words if gain.low > 0 else f"{words}, too little to tell from chance with so few images"


def _score(score: float) -> str:
    return f"{score:.1%}" if 0 <= score <= 1 else f"{score:.4f}" if isfinite(score) else "-"
