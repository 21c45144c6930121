"""`explain`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnaeus.cli.train import Device, Json
from linnaeus.core.errors import VerdictError

if TYPE_CHECKING:
    from rich.table import Table

    from linnaeus.app.explain import Explained


class MethodName(StrEnum):
    """What `explain` can draw."""

    auto = "auto"
    all = "all"
    gradcam = "gradcam"
    attention = "attention"
    rollout = "rollout"
    integrated_gradients = "integrated-gradients"
    occlusion = "occlusion"


def explain(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or of a model.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or quoted patterns such as 'in/*.jpg'.")],
    method: Annotated[
        list[MethodName] | None, typer.Option(help="Repeatable; auto: Grad-CAM, or for ViT attention and rollout.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Explain this class; default: the most probable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; default: explain-1, -2, ... inside RUN.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what in an image speaks for its class: heat maps side by side, a PNG an image and a page for all.

    Grad-CAM is for convolutional networks, attention and rollout for Vision Transformers; integrated-gradients and
    occlusion suit any network and need pip install 'linnaeus[explain]'. A file that cannot be read gets a row with the
    reason, and the exit code is then 1.

    Examples:

      linnaeus explain runs/photos-1 new.jpg holiday/

      linnaeus explain runs/photos-1 new.jpg --method all --class bee
    """
    from linnaeus.app.explain import explain as run_explanation
    from linnaeus.app.progress import Display

    display = Display(results=not as_json)
    methods = [str(name) for name in method or [MethodName.auto]]
    page, rows = run_explanation(run, images, methods=methods, label=label, out=out, device=device, display=display)
    if as_json:
        typer.echo(json.dumps({"page": str(page), "images": [row.to_json() for row in rows]}))
    else:
        display.show(_table(rows))
        display.show(f"Page: {page}")
    failed = sum(1 for row in rows if row.error)
    if failed:
        raise VerdictError(f"{failed} of {len(rows)} images could not be read; see their rows")


def _table(rows: "list[Explained]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("image", "label", "probability", "explained", "picture"):
        table.add_column(column, overflow="fold", justify="right" if column == "probability" else "left")
    for row in rows:
        if row.error:
            table.add_row(Text(row.image), Text(f"error: {row.error}", "red"), "", "", "")
            continue
        other = "" if row.explained == row.label else f"{row.explained} {row.explained_probability:.1%}"
        picture = Path(row.picture).name
        table.add_row(Text(row.image), Text(row.label), f"{row.probability:.1%}", Text(other), Text(picture))
    return table
