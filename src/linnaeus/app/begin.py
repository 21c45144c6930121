"""What comes before training: the images checked, the configuration complete, the fastest way to run the network."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from linnaeus.app.build import make_model, make_rule, make_state
from linnaeus.app.config import Config
from linnaeus.app.images import Images
from linnaeus.app.linear import check_used
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve, starting_weights
from linnaeus.core.batch import Batch, Loader
from linnaeus.core.device import describe, pick
from linnaeus.core.duration import Duration
from linnaeus.data.loader import watched_workers
from linnaeus.engine.autotune import (
    MARGIN,
    TRIAL_SHARE,
    Choice,
    candidates,
    choose,
    consider_compiling,
    time_steps,
)
from linnaeus.engine.batch_size import NEARLY, STEPS_PER_EPOCH, ladder, smallest_fast, time_batch_sizes
from linnaeus.engine.step import State, StepRule
from linnaeus.models.download import Progress
from linnaeus.models.weights import fetch_weights

WORKER_SECONDS = 1.5
"""How long steps are timed with each number of processes."""


@dataclass(frozen=True)
class Beginning:
    """All that a run is made of, before its first step.

    Attributes:
        config: complete.
        began: when the command began, by the monotonic clock.
        about: what was measured and where weights come from, for the manifest.
    """

    config: Config
    prepared: Prepared
    images: Images
    device: torch.device
    began: float
    about: dict[str, Any]

    def rule(self, loader: Loader) -> StepRule:
        """How each step is taken."""
        preprocess, prepared = self.images.preprocess.to(self.device), self.prepared
        return make_rule(self.config, preprocess, loader, num_classes=len(prepared.classes), task=prepared.task)

    def state(self) -> State:
        """What training starts from, with what the network measures on training images."""
        state = make_state(self.config, len(self.prepared.classes), self.device)
        if state.model.measured_images:
            batches = self.images.training().epoch(0)
            shown = -(-state.model.measured_images // self.config.train.images_per_step)
            images = torch.cat([batch.images for batch in islice(batches, shown)]).to(self.device)
            state.model.measure(self.images.preprocess.to(self.device)(images))
            state.judged.load_state_dict(state.model.state_dict())
        return state


def begin(config: Config, *, display: Display, began: float | None = None) -> Beginning:
    """Checks the images, and decides what the configuration leaves open. Writes nothing but caches.

    Args:
        began: when the command began, by the monotonic clock; by default now.

    Raises:
        LinnaeusError: any of `core/errors.py`.
    """
    began = time.monotonic() if began is None else began
    device = pick(config.train.device)
    check_used(config)
    weights = starting_weights(config)
    if weights:  # first of all: to check the images may take long, and a missing file should be an error at once
        with fetching(display) as progress:
            fetch_weights(weights, progress=progress)
    prepared = prepare(config.data, seed=config.train.seed, display=display)
    asked, config = config, resolve(config, prepared, weights)
    for line in prepared.summary():
        display.say(line)
    about = {
        "device": describe(device),
        "data_fingerprint": prepared.fingerprint,
        "weights": weights and weights.to_json(),
    }
    begun = Beginning(config, prepared, Images(config, prepared, display), device, began, about)
    if asked.train.batch_size == "auto":

        def settle(size: int) -> Config:
            return resolve(asked.replace(train={"batch_size": size}), prepared, weights)

        begun = _measure_batch_size(begun, settle, display)
    return _tune(begun, display)


@contextmanager
def fetching(display: Display) -> Iterator[Progress]:
    """A bar for what comes over the network; yields the function that is told of it."""
    shown = 0

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total if total else 0
        advance(percent - shown)
        shown = percent

    with display.bar("fetching weights", 100, unit="%") as advance:
        yield show


def _measure_batch_size(begun: Beginning, settle: Callable[[int], Config], display: Display) -> Beginning:
    """Decides how many images a step has, by the plainest way of running the network.

    Args:
        settle: a batch size -> the configuration with it, the learning rate with it as well where it is left open.
    """
    loader = begun.images.training()
    sizes, batches = ladder(loader.num_images), loader.epoch(0)
    images = next(batches)

    def batch_of(size: int) -> Batch:
        nonlocal images
        while len(images) < size:
            images = images.join(next(batches))
        return images.first(size).to(begun.device)

    speeds: dict[int, float] = {}
    if len(sizes) > 1:
        with watched_workers():
            speeds = time_batch_sizes(begun.state(), batch_of, begun.rule(loader), sizes)
    size = smallest_fast(speeds, sizes)
    why = f"the smallest that has {NEARLY:.0%} of the highest speed"
    if not speeds:
        fewer = f"a larger one leaves fewer than {STEPS_PER_EPOCH} steps an epoch"
        why = "memory allows no more" if len(sizes) > 1 else fewer
    config = settle(size)
    found = ", ".join(f"{each}: {speed:,.0f}" for each, speed in speeds.items())
    display.say(f"batch of {size}: {why}{f' (images/s by size: {found})' if found else ''}; lr {config.optim.lr:.3g}")
    rounded = {str(each): round(speed, 1) for each, speed in speeds.items()}
    about = {**begun.about, "batch_size": {"chosen": size, "images_per_second": rounded, "why": why}}
    return replace(begun, config=config, images=begun.images.under(config), about=about)


def _tune(begun: Beginning, display: Display) -> Beginning:
    """Decides how the network is run, by measuring what the configuration leaves open."""
    config, device, train = begun.config, begun.device, begun.config.train
    ways = candidates(device, None if train.precision == "auto" else train.precision, train.channels_last)
    asks_compile = train.autotune and train.compile is None and not config.record.microscope  # it needs it as it is
    choice = Choice(ways[0], 0, {}, {})
    if train.autotune and train.takes_steps and (len(ways) > 1 or asks_compile):
        loader = begun.images.training()
        with watched_workers():
            batch = next(iter(loader.epoch(0))).to(device)
        model, rule = make_model(config, len(begun.prepared.classes)).to(device), begun.rule(loader)
        choice = choose(model, batch, rule, ways)
        if asks_compile:
            training = _training_seconds(config, choice, loader.num_batches)
            choice = consider_compiling(model, batch, rule, choice, training=training, note=display.say)
    for way, reason in choice.rejected.items():
        display.say(f"not used: {way}: {reason}")
    if str(choice.way._replace(compiled=True)) in choice.seconds:
        display.say(choice.why)
    chosen = choice.way if train.compile is None else choice.way._replace(compiled=train.compile)
    settings = {"precision": chosen.precision, "channels_last": chosen.channels_last, "compile": chosen.compiled}
    about = {"chosen": str(chosen), "images": choice.images, "seconds": choice.seconds}
    about |= {"rejected": choice.rejected, "compiling": choice.why}
    tuned = replace(begun, config=config.replace(train=settings), about={**begun.about, "autotune": about})
    return _tune_workers(tuned, choice, display)


def _training_seconds(config: Config, choice: Choice, steps_per_epoch: int) -> float:
    """How long training takes, about, as far as the network itself is concerned."""
    duration = Duration.parse(config.train.duration)
    if duration.is_time:
        return duration.amount
    step = choice.seconds[str(choice.way)] / choice.images * config.train.images_per_step
    return step * duration.steps(steps_per_epoch=steps_per_epoch)


def _tune_workers(begun: Beginning, choice: Choice, display: Display) -> Beginning:
    """Decides how many processes decode, where that is left open and a run is long enough to try it out."""
    config = begun.config
    if config.data.loader != "files" or config.data.workers is not None or not choice.seconds:
        return begun
    usual = min(8, os.cpu_count() or 1)
    numbers = sorted({0, usual // 2, usual})  # the usual one last: files may be in memory by then, and it is kept
    steps = begun.images.training().num_batches
    if _training_seconds(config, choice, steps) * TRIAL_SHARE < len(numbers) * 2 * WORKER_SECONDS:
        return begun
    seconds = {}
    for number in numbers:
        changed = config.replace(data={"workers": number, "cache_gib": 0.0})  # each decodes anew
        trial = replace(begun, config=changed, images=Images(changed, begun.prepared, Display(quiet=True)))
        state, loader = make_state(changed, len(begun.prepared.classes), begun.device), trial.images.training()
        with watched_workers():
            speed = time_steps(state, loader, trial.rule(loader), device=begun.device, limit=WORKER_SECONDS)
        seconds[number] = round(speed.step, 6)
    best = min(seconds, key=lambda number: seconds[number])
    if seconds[best] >= MARGIN * seconds[usual]:
        best = usual
    display.say(f"{best} processes decode: {seconds[best] * 1000:,.1f} ms a step, of {len(numbers)} numbers tried")
    config = config.replace(data={"workers": best})
    images = Images(config, begun.prepared, Display(quiet=True))  # what it has to say was said
    about = {**begun.about, "autotune": {**begun.about["autotune"], "seconds_by_workers": seconds}}
    return replace(begun, config=config, images=images, about=about)
