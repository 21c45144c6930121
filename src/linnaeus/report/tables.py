"""Scores as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from linnaeus.metrics.intervals import Interval
from linnaeus.metrics.multilabel import MultiScores
from linnaeus.metrics.scores import Scores


def headlines(scores: Scores | MultiScores) -> dict[str, Interval]:
    """The measures to be told first, the foremost first."""
    if isinstance(scores, Scores):
        own = {"top-1": scores.top1, "top-5": scores.top5, "balanced": scores.balanced_accuracy}
        return own | {"macro F1": scores.macro_f1}
    return {
        "mAP": scores.mean_average_precision,
        "micro F1": scores.micro_f1,
        "macro F1": scores.macro_f1,
        "all labels right": scores.exact_match,
    }


def headline_table(scores: Scores | MultiScores, what: str) -> Table:
    """The headlines of one evaluation, each with its interval and n."""
    table = Table(title=f"Accuracy on {what}", title_justify="left")
    if isinstance(scores, MultiScores) and scores.unseen:
        table.caption = f"mAP is over {scores.num_seen} classes: no image has the other {len(scores.unseen)}"
    for column in ("measure", "value", "95% interval", "images"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for name, interval in headlines(scores).items():
        between = f"{interval.low:.1%} to {interval.high:.1%}"
        table.add_row(name, f"{interval.value:.1%}", between, f"{interval.n:,}")
    return table


def class_table(scores: Scores, classes: Sequence[str]) -> Table:
    """Precision, recall and F1 of every class, and their averages."""
    table = Table(title="By class", title_justify="left")
    for column in ("class", "precision", "recall", "F1", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    own = scores.per_class
    rows = zip(classes, own.precision, own.recall, own.f1, own.support, strict=True)
    for name, precision, recall, f1, support in rows:
        table.add_row(name, f"{precision:.1%}", f"{recall:.1%}", f"{f1:.1%}", f"{support:,}")
    table.add_section()
    for name, average in {"macro average": scores.macro, "weighted average": scores.weighted}.items():
        table.add_row(name, f"{average.precision:.1%}", f"{average.recall:.1%}", f"{average.f1:.1%}", f"{scores.n:,}")
    return table


def label_table(scores: MultiScores, classes: Sequence[str]) -> Table:
    """Average precision of every class, and precision, recall and F1 from its threshold on."""
    table = Table(title="By class", title_justify="left")
    for column in ("class", "AP", "threshold", "precision", "recall", "F1", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    own = scores.per_class
    rows = zip(
        *(classes, own.average_precision, own.threshold, own.precision, own.recall, own.f1, own.support), strict=True
    )
    for name, ap, threshold, precision, recall, f1, support in rows:
        figures = ["" if value is None else f"{value:.1%}" for value in (ap, threshold, precision, recall, f1)]
        table.add_row(name, *figures, f"{support:,}")
    return table


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Table:
    """Rows are the truth, columns the prediction, named by number where names would not fit."""
    table = Table(title="Confusion: rows are the truth, columns the prediction", title_justify="left")
    table.add_column("truth")
    for number in range(len(classes)):
        table.add_column(str(number), justify="right")
    for number, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        cells = [f"[bold]{n}[/bold]" if i == number else str(n) if n else "·" for i, n in enumerate(row)]
        table.add_row(f"{number} {name}", *cells)
    return table


def confused_table(pairs: Sequence[tuple[int, int, int]], classes: Sequence[str]) -> Table:
    """The most frequent errors."""
    table = Table(title="Most confused", title_justify="left")
    for column in ("truth", "taken for", "images"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for truth, predicted, count in pairs:
        table.add_row(classes[truth], classes[predicted], f"{count:,}")
    return table
