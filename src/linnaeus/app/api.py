"""The Python interface, behind `linnaeus.train` and `linnaeus.load`."""

from os import PathLike
from pathlib import Path
from typing import Any

from linnaeus.app.config import make_config
from linnaeus.app.progress import Display
from linnaeus.app.recipes import over_finetune
from linnaeus.app.run import Run
from linnaeus.app.train import train as run_training
from linnaeus.deploy.artefact import Artefact, load_runtime
from linnaeus.deploy.bundle import Bundle


def train(
    data: str | PathLike[str],
    *,
    model: str = "auto",
    weights: str | PathLike[str] | None = None,
    duration: str | None = None,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    quiet: bool = False,
) -> Run:
    """Trains a classifier and leaves a complete run.

    Args:
        data: a folder, a table, Parquet files, "hf:owner/name" or the name of a built-in set, as for `linnaeus train`.
        model: a name of `linnaeus models`.
        weights: where to start from: "default" for the published ones, a path, an address, or "hf:owner/name".
        duration: "20ep", "5000st", or a time for all of it such as "10min"; by default 20 epochs, or where training
            starts from weights, as many as the recipe `finetune` has.
        seed: of everything random.
        out: the run's folder; by default `runs/<name>-<number>`.
        settings: any other settings by section, such as `{"optim": {"lr": 0.05}}`.
        quiet: print nothing.

    Raises:
        LinnaeusError: one of `linnaeus.core.errors`, with an explanation.
    """
    content: dict[str, dict[str, Any]] = {name: dict(section) for name, section in (settings or {}).items()}
    content.setdefault("data", {})["source"] = str(data)
    content.setdefault("model", {})["name"] = model
    if weights is not None:
        content["model"]["weights"] = str(weights)
    content.setdefault("train", {}).update(seed=seed, **({} if duration is None else {"duration": duration}))
    folder = None if out is None else Path(out)
    return run_training(make_config(over_finetune(content)), out=folder, display=Display(quiet=quiet))


def load(path: str | PathLike[str]) -> Bundle | Artefact:
    """Loads a finished run, the model folder of one, or an artefact of `linnaeus export`; each has `predict`.

    Raises:
        LinnaeusError: if there is none, or it is damaged.
    """
    return load_runtime(Path(path))
