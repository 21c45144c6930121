"""`models` and `demo`."""

from typing import Annotated

import typer


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


def demo() -> None:
    """Train, evaluate and predict on 10,000 embedded images of animals, in about a minute and without network.

    Example:

      linnaeus demo
    """
    from linnaeus.app.demo import demo as run_demo
    from linnaeus.app.progress import Display

    run_demo(Display())
