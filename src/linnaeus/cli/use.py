"""`evaluate`, `predict` and `benchmark`."""

import csv
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnaeus.cli.train import Device, Json, LabelColumn, PathColumn, SplitColumn
from linnaeus.core.errors import RequestError, VerdictError

if TYPE_CHECKING:
    from linnaeus.deploy.prediction import Prediction

    Rows = list[tuple[str, Prediction]]


class Format(StrEnum):
    """How `predict` prints."""

    table = "table"
    csv = "csv"
    json = "json"


def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a run, a model or an exported artefact.")],
    data: Annotated[str | None, typer.Argument(help="Other images, by class; default: the run's test images.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default: test, or else val, or all.")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also on spoiled images: noise, blur, JPEG, ...; takes minutes.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model: accuracy with its interval, by class and by slice, confusion, how far it can be believed.

    An artefact is first asked about its golden samples: whether it still gives what it gave at export.

    Slices are image size, orientation, brightness, and the further columns of a table; those on which the model does
    worse than on the rest, by more than chance, are marked. Where an image may have several classes: mean average
    precision and F1 at the thresholds of the model. Classes are matched by name; one that the model does not know is
    refused.

    Examples:

      linnaeus evaluate runs/photos-1

      linnaeus evaluate runs/photos-1 other-photos/ --json

      linnaeus evaluate runs/photos-1 --robustness

      linnaeus evaluate runs/photos-1/exports/onnx-int8
    """
    from linnaeus.app.evaluate import evaluate as run_evaluation
    from linnaeus.app.progress import Display
    from linnaeus.data.sources.columns import Columns

    display = Display(results=not as_json)
    columns = Columns(path_column, label_column, split_column)
    result = run_evaluation(
        run, data, columns=columns, split=split, device=device, display=display, robustness=robustness
    )
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    for table in result.tables():
        display.show(table)


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run, a model or an exported artefact.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or quoted patterns such as 'in/*.jpg'.")],
    output: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name for each image.")] = 3,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Also write what the head sees of each image, as arrays.")
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Answer only where so many are right: 0.99. [default: the run's]"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Classify images. A file that cannot be read gets a row with the reason, and the exit code is then 1.

    Where an image may have several classes, it gets all whose probability reaches the threshold of the class, perhaps
    none. In CSV they stand in one cell with their probabilities in the next: cat|dog and 0.910000|0.640000.

    Where `linnaeus benchmark` has found an exported artefact of a run to be the fastest on this machine, that artefact
    answers, unless --embeddings, --min-accuracy or --device need the network; RUN/model asks the network in any case.

    With --min-accuracy 0.99 an answer is given only above the confidence that promises this accuracy, as found on the
    run's validation images; else the image is "not sure". A ? marks images that are unlike the training images.

    Examples:

      linnaeus predict runs/photos-1 new.jpg holiday/

      linnaeus predict runs/photos-1 holiday/ --min-accuracy 0.99

      linnaeus predict runs/photos-1 'in/**/*.png' --format csv > labels.csv

      linnaeus predict runs/photos-1 holiday/ --embeddings holiday.npz
    """
    from linnaeus.app.predict import predict as run_prediction
    from linnaeus.app.progress import Display

    display = Display()
    predictions = run_prediction(
        run, images, top=top, device=device, display=display, embeddings=embeddings, min_accuracy=min_accuracy
    )
    rows = list(predictions)
    _PRINTERS[output](rows)
    failed = sum(1 for _, prediction in rows if prediction.error)
    if failed:
        raise VerdictError(f"{failed} of {len(rows)} images could not be read; see their rows")


def benchmark(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, of models, or of exported artefacts.")
    ],
    profile: Annotated[
        bool, typer.Option("--profile", help="Where the time of the run's training steps goes, on its own images.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time models on this machine: latency, images a second, start-up, memory and size, by each way of running them.

    A network is run eager, channels last, in bf16 where the machine has it, and compiled; what was exported of it by
    its own runtime. All take turns. The winners are written to benchmark.json of the run, with a plot of accuracy
    against latency. With --profile: what bounds training, by PyTorch's profiler, in a table and in words.

    Examples:

      linnaeus benchmark runs/photos-1

      linnaeus benchmark runs/photos-1 runs/photos-2/exports/onnx-int8

      linnaeus benchmark runs/photos-1 --profile
    """
    from linnaeus.app.benchmark import benchmark as run_benchmark
    from linnaeus.app.profile import profile as run_profile
    from linnaeus.app.progress import Display

    display = Display(results=not as_json)
    if profile:
        if device != "auto":
            raise RequestError("--device has no effect with --profile, which takes the run's: leave out one of them")
        if len(paths) > 1:
            raise RequestError(f"--profile takes one run, and {len(paths)} paths were given")
        profiled = run_profile(paths[0], display=display)
        for table in profiled.tables():
            display.show(table)
        display.show(profiled.verdict())
    else:
        timed = run_benchmark(paths, device=device, display=display)
        for table in timed.tables():
            display.show(table)
        display.show(timed.in_words())
        for path in timed.remember():
            display.show(f"Written: {path}")
    if as_json:
        typer.echo(json.dumps((profiled if profile else timed).to_json()))


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
        labels = "not sure" if prediction.abstained else ", ".join(name for name, _ in prediction.labels)
        labels += " ?" if prediction.unfamiliar else ""
        table.add_row(Text(path), Text(labels, "yellow" if prediction.abstained else ""), probabilities, Text(others))
    if any(prediction.unfamiliar for _, prediction in rows):
        table.caption = "? unlike the training images"
    Console().print(table)


def _print_csv(rows: "Rows") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "label", "probability", "error", "abstained", "unfamiliar"])
    for path, prediction in rows:
        probabilities = "|".join(f"{p:.6f}" for _, p in prediction.labels)
        flags = (str(flag).lower() for flag in (prediction.abstained, prediction.unfamiliar))
        writer.writerow([path, prediction.label, probabilities, prediction.error, *flags])


def _print_json(rows: "Rows") -> None:
    predictions = [{"image": path, **asdict(prediction)} for path, prediction in rows]
    typer.echo(json.dumps({"predictions": predictions}))


_PRINTERS = {Format.table: _print_table, Format.csv: _print_csv, Format.json: _print_json}
