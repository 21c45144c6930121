"""The composition root: the network, its optimizer and the rule of its steps, from a complete `Config`."""

from functools import partial

import torch

from linnaeus.app.config import Config
from linnaeus.core.batch import Loader
from linnaeus.core.classifier import Classifier
from linnaeus.core.duration import Duration
from linnaeus.core.errors import RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.seed import derive
from linnaeus.data.mix import Mixing, mix
from linnaeus.engine.autotune import arrange
from linnaeus.engine.loss import cross_entropy
from linnaeus.engine.step import State, StepRule
from linnaeus.models import create_model
from linnaeus.optim.ema import Ema
from linnaeus.optim.groups import param_groups
from linnaeus.optim.optimizers import OPTIMIZERS
from linnaeus.optim.schedule import SCHEDULES


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
    assert optim.lr
    assert optim.weight_decay is not None  # resolve() has decided all three
    model = arrange(make_model(config, num_classes).to(device), channels_last=bool(config.train.channels_last))
    optimizer = OPTIMIZERS[optim.name](param_groups(model, optim.weight_decay), lr=optim.lr)
    for group in optimizer.param_groups:
        group["initial_lr"] = optim.lr  # what the schedule multiplies
    ema = Ema(model, optim.ema) if optim.ema > 0 else None
    sums = torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    return State(model, optimizer, ema, sums)


def make_rule(config: Config, preprocess: Preprocess, loader: Loader, num_classes: int) -> StepRule:
    """How each step is taken. `preprocess` is on the device of the network."""
    optim, train, augment = config.optim, config.train, config.augment
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
        loss=partial(cross_entropy, label_smoothing=train.label_smoothing),
        schedule=partial(SCHEDULES[optim.schedule], warmup=optim.warmup, floor=optim.floor),
        total_steps=Duration.parse(train.duration).steps(steps_per_epoch=loader.num_batches),
        seed=train.seed,
        precision="bf16" if train.precision == "bf16" else "fp32",
        accumulate=train.accumulate,
        clip_norm=optim.clip_norm or 0.0,
        mix=partial(mix, mixing=mixing) if mixing else None,
    )
