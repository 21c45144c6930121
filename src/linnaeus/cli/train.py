"""`train` and `resume`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnaeus.core.errors import RequestError

if TYPE_CHECKING:
    from linnaeus.app.run import Run

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
PathColumn = Annotated[str | None, typer.Option(help="Of a table: the column of paths; by default found by its name.")]
LabelColumn = Annotated[str | None, typer.Option(help="Of a table: the column of classes.")]
SplitColumn = Annotated[str | None, typer.Option(help="Of a table: the column that says train, val or test.")]
Weights = Annotated[
    str | None, typer.Option(metavar="SOURCE", help="Start from: default (published), a path, a URL, hf:OWNER/NAME.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; may be repeated.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def train(
    data: Annotated[str, typer.Argument(help="A folder of class folders, a table, Parquet, hf:..., or a name.")],
    model: Annotated[str | None, typer.Option(help="A name of `linnaeus models`; by default one that suits.")] = None,
    weights: Weights = None,
    duration: Annotated[str | None, typer.Option(help="Length of the run: 30ep or 5000st.  [default: 20ep]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --duration Nep.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.  [default: 64]")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its top; by default the family's.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels; by default the images' or model's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.  [default: 0]")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME-NUMBER.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.  [default: auto]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto (measured), fp32 or bf16.  [default: auto]")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings, such as a run's config.json.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Train a classifier: check the images, split, train, evaluate on held-out images, write the run.

    DATA is a folder that holds one folder a class, perhaps inside train/, val/ and test/; or a table of paths and
    classes (.csv .tsv .jsonl .parquet), Parquet files with images, hf:owner/name, or one of animals, mnist,
    fashion_mnist, cifar10, cifar100. A split that is missing is carved out.

    Examples:

      linnaeus train photos/

      linnaeus train photos/ --model resnet18 --epochs 30 --set optim.weight_decay=1e-4

      linnaeus train photos/ --model efficientnet_lite0 --weights default

      linnaeus train animals --model lenet5_modern --duration 2000st --json
    """
    from linnaeus.app.config import make_config
    from linnaeus.app.progress import Display
    from linnaeus.app.settings import gather
    from linnaeus.app.train import train as run_training

    if duration is not None and epochs is not None:
        raise RequestError("--duration and --epochs say the same: give one of them")
    flags = {
        "data.source": data,
        "data.path_column": path_column,
        "data.label_column": label_column,
        "data.split_column": split_column,
        "model.name": model,
        "model.weights": weights,
        "model.image_size": image_size,
        "optim.lr": lr,
        "train.duration": duration if epochs is None else f"{epochs}ep",
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
    }
    content = gather(config, flags, settings or [])
    run = run_training(make_config(content), out=out, display=Display(results=not as_json))
    _finish(run, as_json)


def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that was stopped or killed.")],
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped or killed; the result is that of a run never stopped.

    Example:

      linnaeus resume runs/photos-1
    """
    from linnaeus.app.progress import Display
    from linnaeus.app.train import resume as resume_training

    _finish(resume_training(run, display=Display(results=not as_json)), as_json)


def _finish(run: "Run", as_json: bool) -> None:
    if as_json:
        about = json.loads((run.model / "model.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({"run": str(run.folder), "model": str(run.model), "metrics": about["metrics"]}))
    else:
        typer.echo(f"Model: {run.model}")
