"""How far probabilities can be believed, and where a model is worse than usual, as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from linnaeus.metrics.intervals import Interval
from linnaeus.metrics.probabilities import Probabilities
from linnaeus.metrics.slices import Slice


def trust_table(probabilities: Probabilities) -> Table:
    """Every measure of the probabilities, without the calibration of the model and with it."""
    before, after = probabilities.before, probabilities.after
    table = Table(title="Probabilities", title_justify="left")
    for column in ("measure", "value", "95% interval", "not calibrated", "images"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    if probabilities.auroc is not None:
        _add(table, "AUROC, mean of the classes", probabilities.auroc, None)
    _add(table, "average precision, mean of the classes", probabilities.average_precision, None)
    _add(table, "log-loss", after.log_loss, before.log_loss, digits=3)
    _add(table, "Brier score", after.brier, before.brier, digits=3)
    _add(table, "calibration error", after.calibration_error, before.calibration_error)
    return table


def reliability_table(probabilities: Probabilities) -> Table:
    """Bins of answers by confidence: how sure they are, and how often right."""
    table = Table(title="Reliability: how sure the answers are, and how many are right", title_justify="left")
    for column in ("confidence", "right", "95% interval", "answers", "not calibrated"):
        table.add_column(column, justify="right")
    before = probabilities.before.reliability
    for number, own in enumerate(probabilities.after.reliability):
        right = own.accuracy
        marked = Text(f"{right.value:.1%}", "" if right.low <= own.confidence <= right.high else "yellow")
        raw = f"{before[number].confidence:.1%}" if number < len(before) else ""
        table.add_row(f"{own.confidence:.1%}", marked, _between(right), f"{right.n:,}", raw)
    return table


def slice_table(slices: Sequence[Slice]) -> Table:
    """Every slice; those that fail are marked."""
    table = Table(title="By slice: worse than the rest, by more than chance, are those marked", title_justify="left")
    for column in ("slice", "right", "95% interval", "the rest", "images", ""):
        table.add_column(column, justify="left" if column in ("slice", "") else "right")
    for own in slices:
        share = f"{own.accuracy.value:.1%}"
        mark = f"worse (p {own.p_value:.2g})" if own.fails else ""
        name = Text(f"{own.column}: {own.value}", "bold red" if own.fails else "")
        table.add_row(name, share, _between(own.accuracy), f"{own.rest:.1%}", f"{own.accuracy.n:,}", mark)
    return table


def check_table(checks: Mapping[str, Interval]) -> Table:
    """What was promised on validation images, and what became of it on these."""
    table = Table(title="Limits found on validation images, checked here", title_justify="left")
    for column in ("what", "value", "95% interval", "images"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, interval in checks.items():
        if name.endswith("classes"):
            ends = f"{interval.low:.2f} to {interval.high:.2f}"
            table.add_row(name, f"{interval.value:.2f}", ends, f"{interval.n:,}")
        else:
            table.add_row(name, f"{interval.value:.1%}", _between(interval), f"{interval.n:,}")
    return table


def _add(table: Table, name: str, own: Interval, before: Interval | None, digits: int = 0) -> None:
    form = f"{{:.{digits}f}}" if digits else "{:.1%}"
    value, low, high = (form.format(end) for end in (own.value, own.low, own.high))
    raw = "" if before is None else form.format(before.value)
    table.add_row(name, value, f"{low} to {high}", raw, f"{own.n:,}")


def _between(interval: Interval) -> str:
    return f"{interval.low:.1%} to {interval.high:.1%}"
