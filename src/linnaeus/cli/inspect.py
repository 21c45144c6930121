"""`models`, `doctor` and `demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from linnaeus.cli.train import Json, LabelColumn, PathColumn, SplitColumn


def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern such as 'vit_*'.")] = "*",
) -> None:
    """List the networks: parameters, multiply-accumulates at their image size, where trained weights come from.

    `train --weights default` starts from those weights.

    Example:

      linnaeus models resnet
    """
    from rich.console import Console
    from rich.table import Table

    from linnaeus.app.catalogue import list_models

    table = Table()
    for column in ("name", "image size", "classes", "parameters", "multiply-accumulates", "weights"):
        table.add_column(column, justify="left" if column in ("name", "weights") else "right")
    for entry in list_models(pattern):
        counts = (f"{entry.parameters / 1e6:.2f} M", f"{entry.macs / 1e6:,.1f} M")
        table.add_row(entry.name, str(entry.image_size), str(entry.num_classes), *counts, entry.weights)
    Console().print(table)


def doctor(
    data: Annotated[str, typer.Argument(help="As for `linnaeus train`.")],
    page: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("doctor.html"),
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    as_json: Json = False,
) -> None:
    """Examine images before training: broken files, copies across splits, labels in conflict, odd classes and more.

    Nothing is changed. `linnaeus train` does the same first, and leaves out what is marked so. The exit code is 3 if
    the images cannot be used, else 0.

    Examples:

      linnaeus doctor photos/

      linnaeus doctor labels.csv --page report.html --json
    """
    from linnaeus.app.config import DataConfig
    from linnaeus.app.doctor import doctor as run_doctor
    from linnaeus.app.progress import Display

    config = DataConfig(source=data, path_column=path_column, label_column=label_column, split_column=split_column)
    diagnosis = run_doctor(config, page=page, display=Display(results=not as_json))
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json()))


def demo() -> None:
    """Train, evaluate and predict on 10,000 embedded images of animals, in about a minute and without network.

    Example:

      linnaeus demo
    """
    from linnaeus.app.demo import demo as run_demo
    from linnaeus.app.progress import Display

    run_demo(Display())
