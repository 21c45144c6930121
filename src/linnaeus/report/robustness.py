"""What spoiled images cost, as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from linnaeus.metrics.intervals import Interval
from linnaeus.metrics.robustness import Entry, Robustness


def robustness_tables(found: Robustness) -> list[Table]:
    """The headline, each kind of corruption with the worst first, and what should not matter."""
    left = "" if found.relative is None else f", {_between(found.relative)} of that on clean images"
    title = f"On spoiled images: {found.measure} {_between(found.mean)}{left}"
    spoiled = _table(title, sorted(found.corruptions, key=lambda entry: entry.score.value))
    spoiled.caption = (
        f"{found.images}, each in one severity of every kind. Clean: {found.clean}. Worst: {found.worst.words}."
    )
    other = _table("The same images resized, saved and cropped in other ways", found.sensitivities)
    gain = _points(found.flip_gain)
    other.caption = f"Averaging with the mirror image changes {found.measure} by {gain}, n = {found.flip_gain.n:,}"
    return [spoiled, other]


def _table(title: str, entries: Sequence[Entry]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("what is done")
    for column in ("mean", "95% interval", "change, points"):
        table.add_column(column, justify="right")
    table.add_column("by setting")
    for entry in entries:
        settings = ", ".join(f"{name}: {score:.0%}" for name, score in zip(entry.settings, entry.scores, strict=True))
        between = f"{entry.score.low:.1%} to {entry.score.high:.1%}"
        table.add_row(entry.words, f"{entry.score.value:.1%}", between, _points(entry.change), settings)
    return table


def _between(interval: Interval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _points(interval: Interval) -> str:
    value, low, high = (100 * each for each in (interval.value, interval.low, interval.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
