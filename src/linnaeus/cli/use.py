"""`evaluate` and `predict`."""

import csv
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnaeus.cli.train import Device, Json, LabelColumn, PathColumn, SplitColumn
from linnaeus.core.errors import VerdictError

if TYPE_CHECKING:
    from linnaeus.app.evaluate import Evaluation
    from linnaeus.app.progress import Display
    from linnaeus.deploy.bundle import Prediction

    Rows = list[tuple[str, Prediction]]


class Format(StrEnum):
    """How `predict` prints."""

    table = "table"
    csv = "csv"
    json = "json"


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a model.")],
    data: Annotated[str | None, typer.Argument(help="Other images, by class; default: the run's test images.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default: test, or else val, or all.")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model: accuracy with its interval, precision and recall by class, confusion matrix.

    Where an image may have several classes: mean average precision, F1 at the thresholds of the model, both with their
    intervals, and the figures of each class. Classes are matched by name; one that the model does not know is refused.

    Examples:

      linnaeus evaluate runs/photos-1

      linnaeus evaluate runs/photos-1 other-photos/ --json
    """
    from linnaeus.app.evaluate import evaluate as run_evaluation
    from linnaeus.app.progress import Display
    from linnaeus.data.sources.columns import Columns

    display = Display(results=not as_json)
    columns = Columns(path_column, label_column, split_column)
    result = run_evaluation(run, data, columns=columns, split=split, device=device, display=display)
    if as_json:
        typer.echo(json.dumps(_evaluation_json(result)))
        return
    _show_evaluation(result, display)


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a model.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or quoted patterns such as 'in/*.jpg'.")],
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 3,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Also write what the head sees of each image, as arrays.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Classify images. A file that cannot be read gets a row with the reason, and the exit code is then 1.

    Where an image may have several classes, it gets all whose probability reaches the threshold of the class, perhaps
    none. In CSV they stand in one cell with their probabilities in the next: cat|dog and 0.910000|0.640000.

    Examples:

      linnaeus predict runs/photos-1 new.jpg holiday/

      linnaeus predict runs/photos-1 'in/**/*.png' --format csv > labels.csv

      linnaeus predict runs/photos-1 holiday/ --embeddings holiday.npz
    """
    from linnaeus.app.predict import predict as run_prediction
    from linnaeus.app.progress import Display

    display = Display()
    predictions = run_prediction(run, images, top=top, device=device, display=display, embeddings=embeddings)
    rows = list(predictions)
    _PRINTERS[output](rows)
    failed = sum(1 for _, prediction in rows if prediction.error)
    if failed:
        raise VerdictError(f"{failed} of {len(rows)} images could not be read; see their rows")


def _show_evaluation(result: "Evaluation", display: "Display") -> None:
    from linnaeus.metrics.multilabel import MultiScores
    from linnaeus.metrics.scores import most_confused
    from linnaeus.report.tables import class_table, confused_table, confusion_table, headline_table, label_table

    display.show(headline_table(result.scores, result.what))
    if isinstance(result.scores, MultiScores):
        display.show(label_table(result.scores, result.classes))
        return
    assert result.confusion is not None  # as always where images have one class
    display.show(class_table(result.scores, result.classes))
    if len(result.classes) <= 20:
        display.show(confusion_table(result.confusion.tolist(), result.classes))
    pairs = most_confused(result.confusion, 5)
    if pairs:
        display.show(confused_table(pairs, result.classes))


def _evaluation_json(result: "Evaluation") -> dict[str, object]:
    return {
        "images": result.what,
        "classes": list(result.classes),
        **asdict(result.scores),
        **({} if result.confusion is None else {"confusion": result.confusion.tolist()}),
        "unreadable": result.unreadable,
    }


def _print_table(rows: "Rows") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("image", "label", "probability", "next"):
        table.add_column(column, overflow="fold", justify="right" if column == "probability" else "left")
    for path, prediction in rows:
        if prediction.error:
            table.add_row(Text(path), Text(f"error: {prediction.error}", "red"), "", "")
            continue
        others = ", ".join(f"{name} {p:.1%}" for name, p in prediction.top if (name, p) not in prediction.labels)
        probabilities = ", ".join(f"{p:.1%}" for _, p in prediction.labels)
        labels = ", ".join(name for name, _ in prediction.labels)
        table.add_row(Text(path), Text(labels), probabilities, Text(others))
    Console().print(table)


def _print_csv(rows: "Rows") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "label", "probability", "error"])
    for path, prediction in rows:
        probabilities = "|".join(f"{p:.6f}" for _, p in prediction.labels)
        writer.writerow([path, prediction.label, probabilities, prediction.error])


def _print_json(rows: "Rows") -> None:
    predictions = [{"image": path, **asdict(prediction)} for path, prediction in rows]
    typer.echo(json.dumps({"predictions": predictions}))


_PRINTERS = {Format.table: _print_table, Format.csv: _print_csv, Format.json: _print_json}
