"""Scores as tables for a terminal and as a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from linnaeus.metrics.scores import Scores


def headline_table(scores: Scores, what: str) -> Table:
    """The headlines of one evaluation, each with its interval and n."""
    table = Table(title=f"Accuracy on {what}", title_justify="left")
    for column in ("measure", "value", "95% interval", "images"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    rows = {"top-1": scores.top1, "top-5": scores.top5, "balanced": scores.balanced_accuracy}
    for name, interval in rows.items():
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


def model_card(about: Mapping[str, Any], scores: Scores) -> str:
    """The model card in Markdown: what it is, how good, how to use it."""
    architecture, classes = about["architecture"], about["classes"]
    shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20} more" if len(classes) > 20 else "")
    return f"""# {architecture["name"]} for {len(classes)} classes

An image classifier trained with Linnaeus.

- Input: {architecture["in_channels"]} channel(s), {architecture["image_size"]} x {architecture["image_size"]} pixels;
  any image file is resized and cropped by the preprocessing stored in `model.json`.
- Classes: {shown}.
- Top-1 accuracy on held-out test images: {scores.top1}.
- Top-5 accuracy: {scores.top5}.
- Probabilities are not calibrated.
- Licence: {about["licence"]}.

```python
import linnaeus

classifier = linnaeus.load("path/to/this/folder")
print(classifier.predict(["image.jpg"])[0])
```
"""
