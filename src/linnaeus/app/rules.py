"""The schedule and the loss of a run, from what its configuration says of them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linnaeus.app.config import Config
from linnaeus.app.prepare import Prepared
from linnaeus.app.run import from_anywhere
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.runtime import Task
from linnaeus.data.balance import class_weights, logit_offsets, positive_weights
from linnaeus.deploy.bundle import load_bundle
from linnaeus.engine.epochs import Pick
from linnaeus.engine.loss import LOSSES, distill
from linnaeus.optim.schedule import SCHEDULES

SHIFTABLE = 64
"""Pixels of the largest images for which a shift by one is a different view."""
LENGTHS: dict[str, tuple[type, str]] = {
    "t_0": (str, "a duration such as 10ep"),
    "cooldown": (str, "a duration such as 10ep"),
    "milestones": (list, "durations such as [30ep, 60ep]"),
}
"""Options of schedules that are written with a unit; all others are numbers."""
METRICS: dict[Task, tuple[str, ...]] = {"single": ("top1", "balanced", "f1", "loss"), "multi": ("map", "f1", "loss")}
"""The scores on val that can say which state of a run is better; the first is the usual one."""


def make_schedule(config: Config, steps_per_epoch: int) -> Callable[[float], float]:
    """Progress in [0, 1] -> multiplier of the learning rate.

    Raises:
        RequestError: if the schedule has no such option, or refuses its value or its place in a run of this length.
    """
    optim = config.optim
    schedule: Callable[..., float] = SCHEDULES[optim.schedule]
    run = Duration.parse(config.train.duration)

    def share(duration: str) -> float:
        return Duration.parse(duration).share(run, steps_per_epoch=steps_per_epoch)

    options: dict[str, float | list[float]] = {}
    for name, value in optim.schedule_options.items():
        _check_known("optim.schedule_options", name, schedule, ("warmup", "floor"))
        kind, expected = LENGTHS.get(name, (int | float, "a number"))
        if not isinstance(value, kind):
            raise RequestError(f"optim.schedule_options.{name} is {value!r}: expected {expected}")
        if isinstance(value, list):
            options[name] = [share(place) for place in value]
        else:
            options[name] = share(value) if isinstance(value, str) else value
    warmup = share(optim.warmup) if isinstance(optim.warmup, str) else optim.warmup
    if warmup >= 1:
        raise RequestError(f"optim.warmup={optim.warmup} leaves nothing of a run of {run}: make it shorter")
    made = partial(schedule, warmup=warmup, floor=optim.floor, **options)
    try:
        made(0.0)
    except ValueError as error:
        raise RequestError(f"optim.schedule={optim.schedule}: {error}") from None
    return made


def make_patience(config: Config, steps_per_epoch: int) -> int:
    """Steps without a better state after which the run ends; 0 for never.

    Raises:
        RequestError: if a run of this length is over before.
    """
    run, patience = Duration.parse(config.train.duration), config.train.patience
    if patience is None:
        return 0
    steps = Duration.parse(patience).steps(steps_per_epoch=steps_per_epoch)
    first = 0 if config.train.head_start else steps_per_epoch  # when the first state is evaluated
    if not run.is_time and first + steps >= run.steps(steps_per_epoch=steps_per_epoch):
        raise RequestError(f"train.patience={patience} has no effect: a run of {run} is over before. Make it shorter")
    return steps


def make_pick(config: Config) -> Pick | None:
    """Which epochs' weights are kept to be averaged; None where none are."""
    optim = config.optim
    return Pick(optim.average, optim.average_of) if optim.average else None


def make_loss(config: Config, task: Task, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(logits, targets, valid) -> the loss summed over the valid images.

    Raises:
        RequestError: if there is no such loss for this task, or it has no such option or refuses its value.
    """
    train = config.train
    losses = LOSSES[task]
    default = next(iter(losses))
    name = train.loss or default
    if name not in losses:
        raise RequestError(f"train.loss={name} is for images of one class: with several, take {' or '.join(losses)}")
    loss = losses[name]
    for option in train.loss_options:
        _check_known("train.loss_options", option, loss, ("label_smoothing", "class_weights", "offsets"))
    options: dict[str, Any] = {"label_smoothing": train.label_smoothing, **train.loss_options}
    if train.class_weights is not None:
        assert isinstance(train.class_weights, dict)  # resolve() has decided
        options["class_weights"] = torch.tensor(list(train.class_weights.values()), device=device)
    if train.logit_adjustment > 0:
        if name != "cross_entropy":
            raise RequestError(f"train.logit_adjustment needs train.loss=cross_entropy; here it is {name}")
        assert train.class_shares  # resolve() has decided
        offsets = logit_offsets(np.array(list(train.class_shares.values())), train.logit_adjustment)
        options["offsets"] = torch.tensor(offsets, dtype=torch.float32, device=device)
    made = partial(_weighed, partial(loss, **options), 1 - train.teacher_weight if train.teacher else 1.0)
    try:
        loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), **train.loss_options)
    except ValueError as error:
        raise RequestError(f"train.loss={name}: {error}") from None
    return made


def make_teacher(config: Config, preprocess: Preprocess) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(normalised images, logits, valid) -> the teacher's part of the loss, summed over the valid images.

    The teacher sees the same images as the network, mixed as they are, in its own normalisation and size.

    Raises:
        RequestError, EnvironmentFault: if there is no such model, or it is damaged.
    """
    train = config.train
    assert train.teacher
    bundle = load_bundle(Path(train.teacher)).to(preprocess.scale.device)
    theirs, size = bundle.preprocess, bundle.preprocess.geometry.image_size

    def teach(images: Tensor, logits: Tensor, valid: Tensor) -> Tensor:
        images = (images - preprocess.shift) / preprocess.scale * theirs.scale + theirs.shift
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        with torch.no_grad():
            said: Tensor = bundle.model(images)
        return train.teacher_weight * distill(logits, said, valid, temperature=train.temperature)

    return teach


def check_rules(config: Config, prepared: Prepared) -> None:
    """Whether schedule and loss can be made, before anything is begun.

    Raises:
        RequestError: as `make_schedule` and `make_loss` do.
    """
    images = len(prepared.split.indices("train"))
    epoch = -(-images // min(config.train.images_per_step, images))
    make_schedule(config, epoch)
    make_patience(config, epoch)
    _check_ending(config, prepared.task, epoch)
    make_loss(config, prepared.task, torch.device("cpu"))
    if prepared.task == "multi" and (config.data.balance or config.train.teacher):
        raise RequestError("data.balance and train.teacher are for images of one class; here some have several")
    if config.data.balance and prepared.source.labels.shards is not None:
        raise RequestError("data.balance needs images in any order; these come by the shard: use train.class_weights")
    if config.train.teacher:
        teacher = load_bundle(Path(config.train.teacher))
        if teacher.classes != prepared.classes:
            odd = sorted(set(teacher.classes) ^ set(prepared.classes)) or ["none, but in another order"]
            raise RequestError(
                f"{config.train.teacher} knows other classes than these images have: {', '.join(odd[:5])}"
            )
        if teacher.preprocess.channels != config.model.in_channels:
            raise RequestError(
                f"{config.train.teacher} sees {teacher.preprocess.channels} channels: set model.in_channels"
            )


def _check_ending(config: Config, task: Task, steps_per_epoch: int) -> None:
    train, run = config.train, Duration.parse(config.train.duration)
    if train.metric and train.metric not in METRICS[task]:
        several = "may have several classes" if task == "multi" else "have one class each"
        raise RequestError(f"train.metric={train.metric}: images {several} here; take {' or '.join(METRICS[task])}")
    if config.optim.average and not run.is_time and run.steps(steps_per_epoch=steps_per_epoch) <= steps_per_epoch:
        raise RequestError(f"optim.average has no effect in a run of {run}, which is evaluated once")
    size = config.model.image_size
    if train.tta == "shift" and size and size > SHIFTABLE:
        raise RequestError(f"train.tta=shift moves images by a pixel, which is nothing at {size} pixels: take flip")


def class_defaults(config: Config, prepared: Prepared) -> dict[str, Any]:
    """What `train` says of single classes, complete and in their order, from the training images where that is asked.

    Raises:
        RequestError: if a class is named that does not exist, or shares do not sum to 1.
    """
    train, labels = config.train, prepared.source.labels
    targets = labels.targets[prepared.split.indices("train")]
    counts = np.bincount(targets, minlength=len(labels.classes)) if labels.task == "single" else targets.sum(0)
    found: dict[str, Any] = {}
    if isinstance(train.class_weights, dict):
        _check_classes("train.class_weights", train.class_weights, labels.classes)
        found["class_weights"] = {name: train.class_weights.get(name, 1.0) for name in labels.classes}
    elif train.class_weights is not None:
        if labels.task == "multi" and train.class_weights != "balanced":
            raise RequestError("train.class_weights=effective is for images of one class: take balanced")
        is_single = labels.task == "single"
        weights = class_weights(counts, train.class_weights) if is_single else positive_weights(counts, len(targets))
        found["class_weights"] = dict(zip(labels.classes, weights.round(6).tolist(), strict=True))
    if train.class_shares is not None:
        _check_classes("train.class_shares", train.class_shares, labels.classes)
        if len(train.class_shares) < len(labels.classes) or abs(sum(train.class_shares.values()) - 1) > 1e-6:
            raise RequestError("train.class_shares must name every class, and its values must sum to 1")
        found["class_shares"] = {name: train.class_shares[name] for name in labels.classes}
    elif train.logit_adjustment > 0:
        found["class_shares"] = dict(zip(labels.classes, (counts / counts.sum()).tolist(), strict=True))
    if train.teacher is not None:
        found["teacher"] = from_anywhere(train.teacher)
    return found


def _weighed(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], weight: float, logits: Tensor, targets: Tensor, valid: Tensor
) -> Tensor:
    return weight * loss(logits, targets, valid)


def _check_known(setting: str, name: str, function: Callable[..., Any], elsewhere: tuple[str, ...]) -> None:
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in elsewhere]
    if name not in known:
        raise RequestError(f"{setting}.{name} is unknown; known here: {', '.join(known) or 'nothing'}")


def _check_classes(setting: str, values: Mapping[str, float], classes: tuple[str, ...]) -> None:
    unknown = sorted(values.keys() - set(classes))
    if unknown:
        raise RequestError(f"{setting} names '{unknown[0]}', which is no class: these are {', '.join(classes[:10])}")
    unfit = [f"'{name}' is {value}" for name, value in values.items() if not 0 < value < float("inf")]
    if unfit:
        raise RequestError(f"{setting}: {unfit[0]}; expected a positive number")
