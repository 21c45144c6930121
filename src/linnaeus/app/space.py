"""What a search may change, and between which values."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linnaeus.app.build import make_model, make_state
from linnaeus.app.config import Config, make_config
from linnaeus.app.prepare import Prepared
from linnaeus.app.resolve import resolve
from linnaeus.app.settings import merge, read_yaml
from linnaeus.core.errors import RequestError

Value = str | int | float | bool

SEARCHED = ("optim", "augment", "train", "model.options")
"""Where the settings of a space may lie: all else decides what the images, the network or the run are."""
SAME = ("duration", "seed", "device", "precision", "channels_last", "compile", "autotune", "recompute")
"""Of `train`, what is the same for all trials, or changes no score."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both ends are.

    Attributes:
        log: whether factors matter rather than differences.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it has whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def round(self, value: float) -> float:
        """The value as it is tried: four digits of it, so that a person can read and type it."""
        return value if self.is_whole else min(max(float(f"{value:.4g}"), self.low), self.high)


Setting = Range | tuple[Value, ...]
"""Of a range, or one of several values."""
Space = Mapping[str, Setting]
"""Setting, as `section.key`, -> what it may be."""


def default_space(config: Config, num_classes: int) -> Space:
    """What is worth trying with any network, around its defaults.

    Args:
        config: complete.
    """
    lr, decay = config.optim.lr, config.optim.weight_decay
    assert lr  # resolve() has decided both
    assert decay is not None
    space: dict[str, Setting] = {
        "optim.lr": Range(lr / 10, lr * 10, log=True),
        "train.label_smoothing": Range(0.0, 0.2),
        "augment.policy": ("none", "jitter", "trivial", "rand"),
        "augment.mixup": Range(0.0, 0.4),
    }
    if decay:
        space["optim.weight_decay"] = Range(decay / 10, decay * 10, log=True)
    if isinstance(config.optim.warmup, float):
        space["optim.warmup"] = Range(0.0, 0.2)
    if config.model.weights and _is_possible(config, {"optim.layer_decay": 0.75}, num_classes):
        space["optim.layer_decay"] = Range(0.6, 1.0)
    if _is_possible(config, {"model.options.drop_path": 0.1}, num_classes):
        space["model.options.drop_path"] = Range(0.0, 0.2)
    return space


def _is_possible(config: Config, values: Mapping[str, Value], num_classes: int) -> bool:
    """Whether the network takes such settings."""
    try:
        with torch.device("meta"):
            make_state(with_values(config, values), num_classes, torch.device("meta"))
    except RequestError:
        return False
    return True


def with_values(config: Config, values: Mapping[str, Value]) -> Config:
    """The configuration with some settings changed.

    Raises:
        RequestError: if they are unknown, unfit, or do not go together.
    """
    content = config.model_dump()
    for path, value in values.items():
        merge(content, path, value)
    return make_config(content)


def value_in(config: Config, path: str) -> Value | None:
    """What a setting is; None where the configuration leaves it to the network."""
    level: Any = config.model_dump()
    for key in path.split("."):
        level = level.get(key)
    value: Value | None = level
    return value


def includes(setting: Setting, value: Value | None) -> bool:
    """Whether a setting may have this value."""
    if isinstance(setting, Range):
        return isinstance(value, int | float) and setting.low <= value <= setting.high
    return value in setting


def read_space(path: Path) -> dict[str, Any]:
    """The content of a YAML file with settings and what they may be.

    Raises:
        RequestError: if it cannot be read, or is not a mapping.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise RequestError(f"{path} holds no space: expected lines such as {EXAMPLE}")
    return content


EXAMPLE = "'optim.lr: {low: 0.01, high: 1.0, log: true}' or 'augment.policy: [none, trivial]'"


def make_space(content: Mapping[str, Any]) -> Space:
    """Checks a space as it is written: `section.key` -> {low, high, log}, or a list of values.

    Raises:
        RequestError: for the first entry that is not one, naming it.
    """
    for path in content:
        section, _, key = str(path).rpartition(".")
        if section not in SEARCHED or (section == "train" and key in SAME):
            raise RequestError(
                f"'{path}' cannot be searched: expected a setting of {', '.join(SEARCHED)} that can change the score, "
                "such as optim.lr"
            )
    return {path: _make_setting(path, written) for path, written in content.items()}


def _make_setting(path: str, written: object) -> Setting:
    if isinstance(written, list):
        unfit = [value for value in written if not isinstance(value, Value)]
        if unfit or len(written) < 2 or len({repr(value) for value in written}) < len(written):
            raise RequestError(f"{path}: {written} was given; expected two or more different values, such as [0, 0.1]")
        return tuple(written)
    if not isinstance(written, dict) or not {"low", "high"} <= written.keys() <= {"low", "high", "log"}:
        raise RequestError(f"{path}: {written!r} was given; expected {EXAMPLE}")
    low, high, log = written["low"], written["high"], written.get("log", False)
    are_numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not are_numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        expected = "two numbers with low < high" + (" and, with log, 0 < low" if log else "")
        raise RequestError(f"{path}: {written} was given; expected {expected}")
    return Range(low, high, log)


def written(space: Space) -> dict[str, Any]:
    """The space as `make_space` takes it."""
    return {path: vars(s) if isinstance(s, Range) else list(s) for path, s in space.items()}


def check_space(space: Space, config: Config, prepared: Prepared) -> None:
    """Tries each end of each range and each value, alone, before anything is trained.

    Args:
        config: that of a trial, complete.

    Raises:
        RequestError: for the first that the configuration, the network or the rules refuse, naming it.
    """
    for path, value in _corners(space):
        try:
            changed = resolve(with_values(config, {path: value}), prepared)
            with torch.device("meta"):
                make_model(changed, len(prepared.classes))
        except RequestError as error:
            raise RequestError(f"{path}={value} of the space: {error}") from None


def _corners(space: Space) -> Iterator[tuple[str, Value]]:
    for path, setting in space.items():
        for value in (setting.low, setting.high) if isinstance(setting, Range) else setting:
            yield path, value


def without(space: Space, fixed: Collection[str]) -> Space:
    """The space without the settings that were fixed.

    Raises:
        RequestError: if none is left.
    """
    left = {path: setting for path, setting in space.items() if path not in fixed}
    if not left:
        raise RequestError("every setting of the space is fixed: there is nothing to search")
    return left
