"""When a run may start with a fitted head: on which network, with which settings, and from which images."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from linnaeus.app.config import Config
from linnaeus.app.learning import TrainConfig
from linnaeus.app.prepare import Prepared
from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError

MOST = 20_000
"""Images of a role that are looked at; of more, some of each class. A head has few numbers to learn."""
USED = {"duration", "head_start", "batch_size", "loss", "loss_options", "class_weights", "logit_adjustment", "tta"}
USED |= {"class_shares", "label_smoothing", "precision", "channels_last", "autotune", "seed", "device"}
"""Settings of `train` that mean something where only the head is fitted."""


def check_head_start(config: Config, model: Classifier) -> None:
    """Whether a head can be fitted to the features of this network.

    Raises:
        RequestError: if its head is not a linear layer.
    """
    if config.train.head_start and type(model.head) is not nn.Linear:
        raise RequestError(
            f"train.head_start fits a linear head, and that of {config.model.name} is a {type(model.head).__name__}: "
            "set train.head_start=false"
        )


def check_used(config: Config) -> None:
    """Whether settings that mean nothing where no step is taken are as they always are.

    Args:
        config: as the user gave it: what `resolve` decides is decided for every run.

    Raises:
        RequestError: for the first that was changed.
    """
    if config.train.takes_steps:
        return
    usual = TrainConfig(duration=config.train.duration, head_start=True)
    changed = [f"train.{name}" for name, value in config.train if name not in USED and value != getattr(usual, name)]
    for name in ("optim", "augment", "record"):
        section = getattr(config, name)
        changed += [f"{name}.{key}" for key, value in section if value != getattr(type(section)(), key)]
    if changed:
        raise RequestError(f"{changed[0]} has no effect in a run of 0 epochs, which fits the head alone")


def looked_at(prepared: Prepared, role: str) -> NDArray[np.int64]:
    """Positions of the images of a role that a head is fitted to, at most `MOST`, the same share of each class."""
    index = prepared.split.indices(role)
    if len(index) <= MOST:
        return index
    targets = prepared.source.labels.targets[index]
    by_class = np.argsort(targets, kind="stable") if targets.ndim == 1 else np.arange(len(index))
    chosen: NDArray[np.int64] = np.sort(index[by_class[np.linspace(0, len(index) - 1, MOST).astype(np.int64)]])
    return chosen
