"""The composition root: the network, its optimizer and the rule of its steps, from a complete `Config`."""

from functools import partial
from typing import Any

import torch

from linnaeus.app.config import Config
from linnaeus.app.rules import make_loss, make_patience, make_schedule, make_teacher
from linnaeus.core.batch import Loader
from linnaeus.core.classifier import Classifier
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.runtime import Task
from linnaeus.core.seed import derive
from linnaeus.data.mix import Mixing, mix
from linnaeus.engine.autotune import arrange
from linnaeus.engine.recompute import recompute_blocks
from linnaeus.engine.step import State, StepRule
from linnaeus.models import create_model
from linnaeus.optim.ema import Ema
from linnaeus.optim.groups import (
    Groups,
    hidden_matrices,
    layer_scales,
    mark_hidden,
    param_groups,
    split_groups,
)
from linnaeus.optim.optimizers import OPTIMIZERS

MEASURED = {"single": "top1", "multi": "f1"}


def make_model(config: Config, num_classes: int) -> Classifier:
    """The network, with weights drawn from the run's seed, also where it is to start from trained ones.

    Raises:
        RequestError: if there is no such network, or it refuses its size or options.
    """
    model = config.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.train.seed, "init"))
        try:
            return create_model(
                model.name,
                num_classes=num_classes,
                in_channels=model.in_channels or 3,
                image_size=model.image_size,
                pretrained=False,
                **model.options,
            )
        except ValueError as error:  # the network's own words on a size or an option it refuses
            raise RequestError(str(error)) from None


def make_state(config: Config, num_classes: int, device: torch.device) -> State:
    """The network, its optimizer and its average, before the first step."""
    optim = config.optim
    assert optim.name
    assert optim.lr  # resolve() has decided both
    model = arrange(make_model(config, num_classes).to(device), channels_last=bool(config.train.channels_last))
    options: dict[str, Any] = {} if optim.momentum is None else {"momentum": optim.momentum}
    optimizer = OPTIMIZERS[optim.name](_groups(config, model), lr=optim.lr, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = optim.lr * group.get("lr_scale", 1.0)  # what the schedule multiplies
    ema = Ema(model, optim.ema) if optim.ema > 0 else None
    if config.train.recompute:
        recompute_blocks(model)
    sums = torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    return State(model, optimizer, ema, sums)


def _groups(config: Config, model: Classifier) -> Groups:
    """The parameters by what becomes of them: decay, the part of Muon, the learning rate of their layer."""
    optim = config.optim
    assert optim.weight_decay is not None
    groups = param_groups(model, optim.weight_decay)
    try:
        if optim.name == "muon":
            groups = mark_hidden(groups, hidden_matrices(model))
        if optim.layer_decay < 1:
            groups = split_groups(groups, "lr_scale", layer_scales(model, optim.layer_decay))
        if optim.freeze > 0:
            head = set(model.head.parameters())
            until = {name: 0.0 if parameter in head else optim.freeze for name, parameter in model.named_parameters()}
            groups = split_groups(groups, "frozen_until", until)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return groups


def make_rule(config: Config, preprocess: Preprocess, loader: Loader, *, num_classes: int, task: Task) -> StepRule:
    """How each step is taken. `preprocess` is on the device of the network."""
    optim, train, augment = config.optim, config.train, config.augment
    duration = Duration.parse(train.duration)
    mixing = (
        Mixing(
            train.seed,
            num_classes,
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            probability=augment.mix_probability,
            switch=augment.mix_switch,
        )
        if augment.mixes
        else None
    )
    return StepRule(
        preprocess=preprocess,
        loss=make_loss(config, task, preprocess.scale.device),
        schedule=make_schedule(config, loader.num_batches),
        # Under a budget, an epoch's, until it is known how many there will be.
        total_steps=loader.num_batches if duration.is_time else duration.steps(steps_per_epoch=loader.num_batches),
        seed=train.seed,
        precision="bf16" if train.precision == "bf16" else "fp32",
        accumulate=train.accumulate,
        clip_norm=optim.clip_norm or 0.0,
        mix=partial(mix, mixing=mixing) if mixing else None,
        teach=make_teacher(config, preprocess) if train.teacher else None,
        measure=MEASURED[task],
        patience=make_patience(config, loader.num_batches),
    )
