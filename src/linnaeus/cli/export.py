"""`export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from linnaeus.cli.train import Json
from linnaeus.core.errors import RequestError, VerdictError


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run; or of a model, with --data.")],
    to: Annotated[
        str, typer.Option(metavar="LIST", help="Formats with precisions: onnx,onnx:int8,openvino:bf16; or all.")
    ] = "onnx",
    batch: Annotated[str, typer.Option(metavar="N", help="Images at once: a number, or dynamic for any.")] = "dynamic",
    input_: Annotated[
        str,
        typer.Option(
            "--input",
            metavar="prepared|any",
            help="Images of the network's size; or of any, resized and cropped inside.",
        ),
    ] = "prepared",
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Images to judge on. [default: the run's test images]")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0.0, help="Points of accuracy that reduced precision may lose.")] = 1.0,
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the images that must get the same answer.")
    ] = 0.97,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the weights to bear 8 bits first; for int8, where it loses too much.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a model for other runtimes. Each artefact is scored on real images, and refused if it got worse.

    Formats: torch, aoti, onnx, openvino, executorch, coreml, torchscript; precisions: f32, and by format bf16, f16,
    int8. An artefact takes uint8 images and gives calibrated probabilities; what else its user needs lies beside it,
    with a program of a screenful. The report of the run, and `exports.json`, tell of all that was tried. The exit code
    is 1 if any was refused.

    Examples:

      linnaeus export runs/photos-1

      linnaeus export runs/photos-1 --to onnx:int8,openvino:bf16 --max-drop 0.5

      linnaeus export runs/photos-1 --to onnx:int8,executorch:int8 --qat

      linnaeus export runs/photos-1 --to onnx --input any

      linnaeus export runs/photos-1 --to all
    """
    from linnaeus.app.export import Wanted, left_out, parse_targets
    from linnaeus.app.export import export as run_export
    from linnaeus.app.exports import exports_table, figures
    from linnaeus.app.progress import Display
    from linnaeus.deploy.gate import Limits

    display = Display(results=not as_json)
    if to.strip() == "all":
        for target, command in left_out().items():
            display.say(f"{target}: left out, what it takes is not installed: {command}")
    if batch != "dynamic" and not (batch.isdecimal() and 1 <= int(batch) <= 1024):
        raise RequestError(f"--batch {batch}: expected a number from 1 to 1024, or dynamic")
    if input_ not in ("prepared", "any"):
        raise RequestError(f"--input {input_}: expected prepared (the network's size), or any (any size)")
    size = None if batch == "dynamic" else int(batch)
    wanted = Wanted(
        parse_targets(to), size, Limits(max_drop, min_agreement), qat, "any" if input_ == "any" else "prepared"
    )
    attempts = run_export(run, wanted, data=data, display=display)
    display.show(exports_table(attempts))
    if any(attempt.verdict.passed for attempt in attempts):
        display.show(f"Delivered artefacts are in {run / 'exports'}")
    if as_json:
        typer.echo(json.dumps(figures(attempts)))
    if refused := [attempt.name for attempt in attempts if not attempt.verdict.passed]:
        raise VerdictError(f"refused: {', '.join(refused)}; see the reasons above and in {run / 'exports.json'}")
