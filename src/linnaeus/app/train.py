"""From DATA to a deliverable, and from a stopped run to the same deliverable."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from linnaeus.app.begin import Beginning, begin, fetching
from linnaeus.app.config import Config
from linnaeus.app.deliver import deliver
from linnaeus.app.ending import conclude
from linnaeus.app.forecast import under_budget, with_forecast, without_effect
from linnaeus.app.head_start import forget_features, start_with_head
from linnaeus.app.images import Images, explain_wait
from linnaeus.app.judge import Judge
from linnaeus.app.narrator import Narrator
from linnaeus.app.prepare import prepare, write_records
from linnaeus.app.progress import Display
from linnaeus.app.report import report_after_training
from linnaeus.app.rules import make_pick
from linnaeus.app.run import Run, check_free, command_line, create_run, from_anywhere, locked
from linnaeus.app.signals import stop_signals
from linnaeus.app.watch import explain_nonfinite, looked_at
from linnaeus.core.device import pick
from linnaeus.core.duration import Duration
from linnaeus.core.errors import DataError, EnvironmentFault, Interrupted, NotFinite, RequestError
from linnaeus.core.record import Recorder, read_records
from linnaeus.data.loader import watched_workers
from linnaeus.engine.checkpoint import BEST, load_newest, load_weights, remove_torn, save_checkpoint
from linnaeus.engine.guard import compile_in_place
from linnaeus.engine.step import State, take_step
from linnaeus.engine.train import Outlet
from linnaeus.engine.train import train as train_loop
from linnaeus.explain.microscope import conclusions
from linnaeus.models import start_from


def train(config: Config, *, out: Path | None = None, display: Display, began: float | None = None) -> Run:
    """Trains a classifier and leaves a complete run.

    Args:
        out: the run's folder; by default `runs/<name>-<number>`.
        began: when the command began, by the monotonic clock, from where a given time counts; by default now.

    Raises:
        LinnaeusError: any of `core/errors.py`; `Interrupted` after a signal, with the state saved.
    """
    check_free(out)
    begun = with_forecast(begin(config, display=display, began=began), display)
    run = create_run(out, config.data.source)
    with locked(run):
        check_free(out)  # again: another run may have taken it meanwhile
        _describe(run, begun)
        run.checkpoints.mkdir()
        display.say(f"{_in_words(begun.config)}; run folder {run.folder}")
        _go(run, begun, display)
    return run


def _describe(run: Run, begun: Beginning) -> None:
    """Writes what the run is made of."""
    data = begun.config.data
    places = {name: from_anywhere(place) for name in ("source", "quarantine") if (place := getattr(data, name))}
    run.write_config(begun.config.replace(data=places))
    run.write_manifest(begun.about)
    write_records(run.data, begun.prepared)


def resume(folder: Path, *, display: Display) -> Run:
    """Goes on with a run that was stopped or killed; its result is that of a run never stopped.

    Raises:
        RequestError: if the folder is not a run, the run is finished, or another process works on it.
        DataError: if the images are not those the run began with.
    """
    run = Run(folder)
    run.read_config()  # nothing is made in a folder that is not a run
    with locked(run):
        if run.finished:
            raise RequestError(f"{folder} is finished: nothing to resume. Its model is in {run.model}")
        remove_torn(run.checkpoints)
        _go(run, reopen(run, display), display)
    return run


def reopen(run: Run, display: Display) -> Beginning:
    """What a run is made of, from its folder, which may have been moved, and its images.

    Raises:
        RequestError: if the folder is not a run, or its images are not where they were.
        DataError: if the images are not those the run began with.
    """
    began = time.monotonic()
    config = run.read_config()
    device = pick(config.train.device)
    try:
        prepared = prepare(config.data, seed=config.train.seed, display=display, run_data=run.data)
    except RequestError as error:
        advice = f"If the images were moved, write their new place into data.source of {run.folder / 'config.json'}"
        raise RequestError(f"{error}. {advice}") from None
    about = run.read_manifest()
    if prepared.fingerprint != about["data_fingerprint"]:
        raise DataError(
            f"the images of {config.data.source} have changed since this run began (see {run.data / 'index.csv'}): "
            "put them back, or train anew"
        )
    return Beginning(config, prepared, Images(config, prepared, display), device, began, about)


def _go(run: Run, begun: Beginning, display: Display) -> None:
    images, watches = begun.images, begun.config.record.microscope
    with _resumable(run), stop_signals(lambda: _say_stopping(display)) as stop:
        state = open_state(run, begun, display)
        with stop.waiting():
            run_loop(run, begun, state, display=display, stop=stop)
        conclude(run, begun, state, display)
        bundle = deliver(run, begun.config, begun.prepared, images, state.model, device=begun.device, display=display)
        given = Duration.parse(begun.config.train.duration)
        end = begun.began + given.amount if given.is_time else None
        report_after_training(run, begun.prepared, bundle, began=begun.began, end=end, display=display)
    for line in [*images.remarks(), *(conclusions(read_records(run.folder)) if watches else [])]:
        display.say(line)


def open_state(run: Run, begun: Beginning, display: Display) -> State:
    """The state of the newest checkpoint that is whole, or that before the first step."""
    config = begun.config
    state = begun.state()
    state.compiled = bool(config.train.compile)
    if any(run.checkpoints.glob("step-*")):
        for problem in load_newest(run.checkpoints, state):
            display.say(f"passed over: {problem}")
        display.say(f"resuming at step {state.step:,}")
        _check_best(run, state, display)
    elif config.model.weights:
        _start_from_weights(config, state, display)
        if config.train.head_start:
            start_with_head(run, begun, state, display)
        # From here on the run needs the weights no more: their file may change or be gone when it is resumed.
        save_checkpoint(run.checkpoints, state, keep=config.checkpoint.keep)
        forget_features(run)
    if state.compiled:
        compile_in_place(state.model)
    return state


def _check_best(run: Run, state: State, display: Display) -> None:
    """Lets a later state be the best where the weights of the best one are lost."""
    try:
        if state.best is not None:
            load_weights(run.checkpoints / BEST)
    except (RequestError, EnvironmentFault) as error:
        display.say(f"the best weights so far are lost: {error}. Of the epochs from here on the best is taken")
        state.best = None


def run_loop(run: Run, begun: Beginning, state: State, *, display: Display, stop: Callable[[], int]) -> None:
    """Trains from where `state` stands, with checkpoints and records in the folder of `run`.

    Raises:
        LinnaeusError: as `engine.train.train`; where numbers are not finite, with what was found of the cause.
    """
    config = begun.config
    loader = begun.images.training()
    rule = replace(under_budget(begun.rule(loader), begun, run.checkpoints, state.step), note=display.say)
    if vain := without_effect(rule, loader.num_batches):
        display.say(vain)
    after = state.step - state.due  # what an evaluation records comes after it
    recorder = Recorder(run.folder, step=after, note=display.say)
    try:
        with display.training(rule.total_steps, state.step) as show:
            narrator = Narrator(state, loader, recorder, display, show, partial(explain_wait, config.data))
            outlet = Outlet(
                run.checkpoints,
                record=narrator.record,
                show=narrator.show,
                stop_signal=stop,
                save_seconds=config.checkpoint.seconds,
                keep=config.checkpoint.keep,
                epochs=make_pick(config),
            )
            judge = Judge(begun, narrator.measure, stop, display.say)
            microscope = looked_at(state, rule, recorder) if config.record.microscope else nullcontext(take_step)
            with microscope as step:
                train_loop(state, loader, rule, device=begun.device, evaluate=judge, outlet=outlet, step=step)
    except NotFinite as fault:
        fresh = begun.state()
        plain = replace(rule, on_nonfinite="stop", spike=0.0)  # each step is taken as it is
        found = explain_nonfinite(run, config, fresh, loader, plain, until=state.step, display=display)
        raise NotFinite(f"{fault}. {found}") from None
    finally:
        _close(recorder, display)


def _close(recorder: Recorder, display: Display) -> None:
    try:
        recorder.close()
    except OSError as error:
        display.say(f"the end of the record could not be written: {error.strerror}")


def _say_stopping(display: Display) -> None:
    display.say("stopping: the state is saved after this step; a second signal stops at once")
    display.stderr.show_cursor()  # a bar hides it, and a process that is ended from outside cannot bring it back


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """Says how to go on, where the block is stopped and the state is saved."""
    try:
        with watched_workers():
            yield
    except (Interrupted, DataError, EnvironmentFault) as stop:
        stop.add_note(f"Go on with:\n  {command_line('resume', run.folder)}")
        raise


def _start_from_weights(config: Config, state: State, display: Display) -> None:
    """Puts the trained weights into the network and its average. A new head starts at zero.

    So do Dosovitskiy et al. (arXiv:2010.11929, section 3.2): what a random head gets wrong at first would run through
    the whole trained network, and that is much where first weights are large, as EfficientNet's are for few classes.
    """
    assert config.model.weights
    with fetching(display) as progress:
        account = start_from(state.model, config.model.name, config.model.weights, progress=progress)
    display.say(str(account))
    drawn = {parameter for name, parameter in state.model.named_parameters() if name in account.random}
    new_head = set() if config.train.head_start else drawn.intersection(state.model.head.parameters())
    for parameter in new_head:
        torch.nn.init.zeros_(parameter)
    if new_head:
        display.say("  the new head, for the classes of this run, starts at zero")
    if state.ema is not None:
        state.ema.module.load_state_dict(state.model.state_dict())


def _in_words(config: Config) -> str:
    model, train = config.model, config.train
    layout = "channels last" if train.channels_last else "channels first"
    how = f"{config.optim.name}, lr {config.optim.lr:.3g}, batch {train.batch_size}, {train.duration}"
    return (
        f"{model.name} at {model.image_size} pixels, {model.in_channels} channel(s); "
        f"{how if train.takes_steps else 'a linear head alone'}; {train.precision}, {layout}"
    )
