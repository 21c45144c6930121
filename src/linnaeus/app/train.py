"""From DATA to a deliverable, and from a stopped run to the same deliverable."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from linnaeus.app.build import make_rule, make_state
from linnaeus.app.config import Config
from linnaeus.app.deliver import deliver
from linnaeus.app.images import Images
from linnaeus.app.narrator import Narrator
from linnaeus.app.prepare import Prepared, prepare, read_roles, write_records
from linnaeus.app.progress import Display
from linnaeus.app.resolve import resolve, starting_weights
from linnaeus.app.run import Run, check_free, command_line, create_run, from_anywhere
from linnaeus.core.device import autocast, describe, pick
from linnaeus.core.errors import DataError, Interrupted, RequestError
from linnaeus.core.record import Recorder
from linnaeus.engine.autotune import candidates, choose
from linnaeus.engine.checkpoint import load_newest, load_weights, save_checkpoint
from linnaeus.engine.evaluate import evaluate
from linnaeus.engine.step import State
from linnaeus.engine.train import Outlet, Scores
from linnaeus.engine.train import train as train_loop
from linnaeus.metrics.scores import accuracy, mean_nll
from linnaeus.models import start_from
from linnaeus.models.download import Progress
from linnaeus.models.weights import fetch_weights


def train(config: Config, *, out: Path | None = None, display: Display) -> Run:
    """Trains a classifier and leaves a complete run.

    Raises:
        LinnaeusError: any of `core/errors.py`; `Interrupted` after a signal, with the state saved.
    """
    check_free(out)
    device = pick(config.train.device)
    weights = starting_weights(config)
    if weights:  # first of all: to check the images may take long, and a missing file should be an error at once
        with _fetching(display) as progress:
            fetch_weights(weights, progress=progress)
    prepared = prepare(config.data, seed=config.train.seed, display=display)
    config = resolve(config, prepared, weights)
    for line in prepared.summary():
        display.say(line)
    images = Images(config, prepared, display)
    config, measured = _tune(config, prepared, images, device, display)
    run = create_run(out, config.data.source)
    places = {name: from_anywhere(place) for name in ("source", "quarantine") if (place := getattr(config.data, name))}
    run.write_config(config.replace(data=places))
    run.write_manifest(
        {
            "device": describe(device),
            "data_fingerprint": prepared.fingerprint(),
            "autotune_seconds": measured,
            "weights": weights and weights.to_json(),
        }
    )
    write_records(run.data, prepared)
    run.checkpoints.mkdir()
    display.say(f"{_in_words(config)}; run folder {run.folder}")
    _go(run, config, prepared, images, device, display)
    return run


def resume(folder: Path, *, display: Display) -> Run:
    """Goes on with a run that was stopped or killed; its result is that of a run never stopped.

    Raises:
        RequestError: if the folder is not a run, or the run is finished.
        DataError: if the images are not those the run began with.
    """
    run = Run(folder)
    config = run.read_config()
    if run.finished:
        raise RequestError(f"{folder} is finished: nothing to resume. Its model is in {run.model}")
    device = pick(config.train.device)
    roles = read_roles(run.data)
    prepared = prepare(config.data, seed=config.train.seed, display=display, roles=roles)
    if prepared.fingerprint() != run.read_manifest()["data_fingerprint"]:
        raise DataError(
            f"the images of {config.data.source} have changed since this run began (see {run.data / 'index.csv'}): "
            "put them back, or train anew"
        )
    _go(run, config, prepared, Images(config, prepared, display), device, display)
    return run


def _go(run: Run, config: Config, prepared: Prepared, images: Images, device: torch.device, display: Display) -> None:
    state = make_state(config, len(prepared.classes), device)
    if any(run.checkpoints.glob("step-*")):
        for problem in load_newest(run.checkpoints, state):
            display.say(f"passed over: {problem}")
        display.say(f"resuming at step {state.step:,}")
    elif config.model.weights:
        _start_from_weights(config, state, display)
        # From here on the run needs the weights no more: their file may change or be gone when it is resumed.
        save_checkpoint(run.checkpoints, state, keep=config.checkpoint.keep)
    loader = images.training()
    rule = make_rule(config, images.preprocess.to(device), loader, len(prepared.classes))
    recorder = Recorder(run.folder, step=state.step)
    try:
        with _stop_signals() as asked, display.training(rule.total_steps, state.step) as show:
            narrator = Narrator(state, loader, recorder, display, show)
            judge = _Judge(images, config, len(prepared.classes), device, narrator)
            outlet = Outlet(
                run.checkpoints,
                record=narrator.record,
                show=narrator.show,
                stop_signal=asked,
                save_seconds=config.checkpoint.seconds,
                keep=config.checkpoint.keep,
            )
            train_loop(state, loader, rule, device=device, evaluate=judge, outlet=outlet)
    except Interrupted as stop:
        message = f"{stop}. Go on with:\n  {command_line('resume', run.folder)}"
        raise Interrupted(message, stop.exit_code - 128) from None
    finally:
        recorder.close()
    state.judged.load_state_dict(load_weights(run.checkpoints / "best.safetensors"))
    state.model.load_state_dict(state.judged.state_dict())
    deliver(run, config, prepared, images, state.model, device=device, display=display)


@contextmanager
def _fetching(display: Display) -> Iterator[Progress]:
    """A bar for what comes over the network; yields the function that is told of it."""
    shown = 0

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total if total else 0
        advance(percent - shown)
        shown = percent

    with display.bar("fetching weights", 100, unit="%") as advance:
        yield show


def _start_from_weights(config: Config, state: State, display: Display) -> None:
    """Puts the trained weights into the network and its average. A new head starts at zero.

    So do Dosovitskiy et al. (arXiv:2010.11929, section 3.2): what a random head gets wrong at first would run through
    the whole trained network, and that is much where first weights are large, as EfficientNet's are for few classes.
    """
    assert config.model.weights
    with _fetching(display) as progress:
        account = start_from(state.model, config.model.name, config.model.weights, progress=progress)
    display.say(str(account))
    drawn = {parameter for name, parameter in state.model.named_parameters() if name in account.random}
    new_head = drawn.intersection(state.model.head.parameters())
    for parameter in new_head:
        torch.nn.init.zeros_(parameter)
    if new_head:
        display.say("  the new head, for the classes of this run, starts at zero")
    if state.ema is not None:
        state.ema.module.load_state_dict(state.model.state_dict())


def _tune(
    config: Config, prepared: Prepared, images: Images, device: torch.device, display: Display
) -> tuple[Config, dict[str, float]]:
    """Decides precision and memory layout, by measuring where the configuration leaves them open."""
    given = config.train.precision
    ways = candidates(device, None if given == "auto" else given, config.train.channels_last)
    loader = images.training()
    batch = next(iter(loader.epoch(0))).to(device)
    rule = make_rule(config, images.preprocess.to(device), loader, len(prepared.classes))
    model = make_state(config, len(prepared.classes), device).model
    choice = choose(model, batch, rule, ways)
    for way, reason in choice.rejected.items():
        display.say(f"not used: {way}: {reason}")
    settings = {"precision": choice.way.precision, "channels_last": choice.way.channels_last}
    return config.replace(train=settings), choice.seconds


def _in_words(config: Config) -> str:
    model, train = config.model, config.train
    layout = "channels last" if train.channels_last else "channels first"
    return (
        f"{model.name} at {model.image_size} pixels, {model.in_channels} channel(s); {config.optim.name}, "
        f"lr {config.optim.lr:.3g}, batch {train.batch_size}, {train.duration}; {train.precision}, {layout}"
    )


@dataclass
class _Judge:
    """Evaluates a state on val, in the precision of training."""

    images: Images
    config: Config
    num_classes: int
    device: torch.device
    narrator: "Narrator"

    def __post_init__(self) -> None:
        self._loader = self.images.evaluation("val")

    def __call__(self, state: State) -> Scores:
        speed = self.narrator.speed(state.step)
        network = state.judged.eval()

        def logits_of(images: Tensor) -> Tensor:
            with autocast(self.device, "bf16" if self.config.train.precision == "bf16" else "fp32"):
                logits: Tensor = network(self.images.preprocess(images))
            return logits

        counts = evaluate(logits_of, self._loader, num_classes=self.num_classes, device=self.device)
        top1 = accuracy(counts).value
        return {"val/top1": top1, "val/loss": mean_nll(counts), "train/images_per_second": speed}


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that tells which of SIGINT and SIGTERM has come, or 0. A second signal stops at once."""
    received = [0]

    def note(number: int, _: object) -> None:
        received[0] = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
