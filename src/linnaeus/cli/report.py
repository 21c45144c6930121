"""`report`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnaeus.cli.train import Device, Json

if TYPE_CHECKING:
    from linnaeus.app.progress import Display


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    page: Annotated[
        Path, typer.Option(help="Of several runs: the HTML page to write. That of one run is in its folder.")
    ] = Path("comparison.html"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write the report of a run anew, as one HTML page; or set several runs side by side.

    Of one run it says how good it is, how sure that is, what it confuses, how far to trust a probability, what to worry
    about and what to do next. Training writes the same in the end, but leaves out what would take long.

    Several runs are compared with the first on the test images that both have: by McNemar's exact test and the interval
    of the difference, and by the paired bootstrap of the log-loss. The page shows accuracy against speed and size.

    Examples:

      linnaeus report runs/photos-1

      linnaeus report runs/photos-1 runs/photos-2 --page photos.html
    """
    from linnaeus.app.progress import Display

    display = Display(results=not as_json)
    content = _one(runs[0], device, display) if len(runs) == 1 else _several(runs, page, device, display)
    if as_json:
        typer.echo(json.dumps(content))


def _one(run: Path, device: str, display: "Display") -> dict[str, Any]:
    from linnaeus.app import compare
    from linnaeus.app.report import report as write_report
    from linnaeus.report.verdict import judge

    page, record = write_report(run, device=device, display=display)
    verdict = judge(record)
    display.show("\n".join(verdict.text()))
    display.show(f"Report: {page}")
    return {"report": str(page), "verdict": verdict.to_json(), **compare.report(run).to_json()}


def _several(runs: list[Path], page: Path, device: str, display: "Display") -> dict[str, Any]:
    from linnaeus.app import compare
    from linnaeus.app.side_by_side import check_page, write_comparison

    check_page(page)
    told = compare.compare(runs)
    display.show(compare.comparison_table(told))
    for pair in told:
        display.show("\n".join(pair.lines()))
    write_comparison(runs, told, page, device=device, display=display)
    display.show(f"Side by side: {page}")
    return {"report": str(page), "comparisons": [pair.to_json() for pair in told]}
