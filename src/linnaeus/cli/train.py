"""`train` and `resume`."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnaeus.core.errors import RequestError

if TYPE_CHECKING:
    from linnaeus.app.config import Config
    from linnaeus.app.run import Run

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
PathColumn = Annotated[str | None, typer.Option(help="Of a table: the column of paths; by default found by its name.")]
LabelColumn = Annotated[str | None, typer.Option(help="Of a table: the column of classes.")]
SplitColumn = Annotated[str | None, typer.Option(help="Of a table: the column that says train, val or test.")]
Weights = Annotated[
    str | None, typer.Option(metavar="SOURCE", help="Start from: default (published), a path, a URL, hf:OWNER/NAME.")
]
Microscope = Annotated[bool, typer.Option("--microscope", help="Look inside meanwhile, for about 2% of the time.")]
Duration = Annotated[
    str | None, typer.Option(help="30ep, 5000st, or a time for all of it: 10min, 2h.  [default: 20ep]")
]
BatchSize = Annotated[str | None, typer.Option(metavar="N", help="Images a step, or auto (measured).  [default: 64]")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show time, memory, steps and schedule; train nothing.")]
NoAutotune = Annotated[bool, typer.Option("--no-autotune", help="Measure nothing: float32, not compiled.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other setting; may be repeated.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def train(
    data: Annotated[
        str, typer.Argument(help="A folder of class folders, a table, Parquet, shards, hf:..., or a name.")
    ],
    model: Annotated[str | None, typer.Option(help="A name of `linnaeus models`; by default one that suits.")] = None,
    weights: Weights = None,
    duration: Duration = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Short for --duration Nep.")] = None,
    batch_size: BatchSize = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its top; by default the family's.")] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Pixels; by default the images' or model's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.  [default: 0]")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; by default runs/NAME-NUMBER.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.  [default: auto]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto (measured), fp32 or bf16.  [default: auto]")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    microscope: Microscope = False,
    dry_run: DryRun = False,
    no_autotune: NoAutotune = False,
    teacher: Annotated[str | None, typer.Option(metavar="RUN", help="A run or model to learn from as well.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A name of `linnaeus recipes` to start from.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings, such as a run's config.json.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Train a classifier: check the images, split, train, evaluate on held-out images, write the run.

    DATA is a folder that holds one folder a class, perhaps inside train/, val/ and test/; or a table of paths and
    classes (.csv .tsv .jsonl .parquet), Parquet files with images, hf:owner/name, or one of animals, mnist,
    fashion_mnist, cifar10, cifar100. A split that is missing is carved out.
    Several classes in a cell (cat|dog), or one column of 0 and 1 a class, make the task multi-label.

    A time, such as --duration 10min, is that of the whole command, from the check of the images to the model; the
    learning rate then follows the time gone by, and falls to its end as any other.

    Examples:

      linnaeus train photos/

      linnaeus train photos/ --model resnet18 --epochs 30 --set optim.weight_decay=1e-4

      linnaeus train photos/ --model efficientnet_lite0 --weights default

      linnaeus train animals --model lenet5_modern --duration 2000st --json

      linnaeus train photos/ --duration 10min --dry-run
    """
    began = time.monotonic()  # the imports are the first seconds of a given time
    from linnaeus.app.config import make_config

    _refuse_both(("--duration", duration), ("--epochs", epochs))
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
        "train.batch_size": int(batch_size) if batch_size and batch_size.isdecimal() else batch_size,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.teacher": teacher,
        "record.microscope": microscope or None,
        "train.autotune": False if no_autotune else None,
    }
    content = content_of(data, recipe, config, flags, settings)
    if dry_run:
        _plan(make_config(content), out, as_json, began)
    else:
        _train(make_config(content), out, as_json, began)


def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run that was stopped or killed.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Prove it instead: train a stretch of any run again, compare all tensors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was stopped or killed; the result is that of a run never stopped.

    Examples:

      linnaeus resume runs/photos-1

      linnaeus resume runs/photos-1 --verify
    """
    from linnaeus.app.progress import Display
    from linnaeus.app.train import resume as resume_training
    from linnaeus.app.verify import verify as verify_run

    display = Display(results=not as_json)
    if not verify:
        _finish(resume_training(run, display=display), as_json)
        return
    found = verify_run(run, display=display)
    display.show(
        f"Identical to the bit: {found.tensors:,} tensors with {found.values:,} values at step {found.last:,}, trained "
        f"again from step {found.first:,} in {found.seconds:.1f} s"
    )
    if as_json:
        typer.echo(json.dumps({"run": str(run), "identical": True, **vars(found)}))


def _plan(config: "Config", out: Path | None, as_json: bool, began: float) -> None:
    from linnaeus.app.dry_run import dry_run
    from linnaeus.app.progress import Display

    plan = dry_run(config, out=out, display=Display(results=not as_json), began=began)
    if as_json:
        typer.echo(json.dumps(plan))


def _train(config: "Config", out: Path | None, as_json: bool, began: float) -> None:
    from linnaeus.app.progress import Display
    from linnaeus.app.train import train as run_training

    _finish(run_training(config, out=out, display=Display(results=not as_json), began=began), as_json)


def content_of(
    data: str, recipe: str | None, config: Path | None, flags: Mapping[str, object], settings: list[str] | None
) -> dict[str, object]:
    """The configuration that a recipe or a file, the options and `--set` make, of which the later goes before.

    Raises:
        RequestError: if both a recipe and a file are given, or either cannot be used.
    """
    from linnaeus.app.recipes import find_recipe
    from linnaeus.app.settings import gather

    _refuse_both(("--recipe", recipe), ("--config", config))
    start = None if recipe is None else find_recipe(recipe)(data).model_dump()
    return gather(config, flags, settings or [], recipe=start)


def _refuse_both(first: tuple[str, object], second: tuple[str, object]) -> None:
    if first[1] is not None and second[1] is not None:
        raise RequestError(f"{first[0]} and {second[0]} say the same: give one of them")


def _finish(run: "Run", as_json: bool) -> None:
    if as_json:
        about = json.loads((run.model / "model.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({"run": str(run.folder), "model": str(run.model), "metrics": about["metrics"]}))
    else:
        typer.echo(f"Model: {run.model}")
