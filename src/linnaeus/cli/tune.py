"""`tune`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from linnaeus.cli.train import Json, LabelColumn, PathColumn, Settings, SplitColumn, Weights, content_of


def tune(
    data: Annotated[str, typer.Argument(help="As for `linnaeus train`.")],
    duration: Annotated[str | None, typer.Option(help="The time for all of it: 20min, 2h.  [default: 1h]")] = None,
    trials: Annotated[int | None, typer.Option(min=2, help="How many at most; without --duration no time.")] = None,
    space: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="What to search; by default what suits most networks.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name of `linnaeus models`; by default one that suits.")] = None,
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="The folder; by default tune/NAME-NUMBER.")] = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    recipe: Annotated[str | None, typer.Option(help="A name of `linnaeus recipes` to start from.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings to start from.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Search for better hyper-parameters: many short trainings, judged on val; the test images are never looked at.

    The first trial has the defaults, so what is found is never worse on val. Hopeless trials are given up early. What
    is fixed by --set is not searched. FILE.yaml has lines such as `optim.lr: {low: 0.01, high: 1, log: true}` and
    `augment.policy: [none, trivial]`. A search that was stopped or killed goes on with the same
    command, or with the same --out.

    Examples:

      linnaeus tune photos/ --duration 1h

      linnaeus tune photos/ --trials 30 --set train.duration=5ep --set optim.name=adamw

      linnaeus train photos/ --config tune/photos-1/best.yaml
    """
    began = time.monotonic()  # the imports are the first seconds of a given time
    from linnaeus.app.config import make_config
    from linnaeus.app.plan import Wish
    from linnaeus.app.progress import Display
    from linnaeus.app.settings import parse_assignment
    from linnaeus.app.space import read_space
    from linnaeus.app.tune import tune as run_tune

    flags = {
        "data.source": data,
        "data.path_column": path_column,
        "data.label_column": label_column,
        "data.split_column": split_column,
        "model.name": model,
        "model.weights": weights,
    }
    content = content_of(data, recipe, config, flags, settings)
    fixed = frozenset(parse_assignment(text)[0] for text in settings or [])
    wish = Wish(fixed, None if space is None else read_space(space), duration, trials)
    winner = run_tune(make_config(content), wish, out=out, display=Display(results=not as_json), began=began)
    if as_json:
        typer.echo(json.dumps(winner.to_json()))
