"""Steps that are looked at, and the step that did it where the loss ceased to be finite."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from linnaeus.app.config import Config
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.batch import Batch, Loader
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.record import Recorder
from linnaeus.engine.checkpoint import load_newest
from linnaeus.engine.guard import are_finite
from linnaeus.engine.step import State, StepRule, take_step
from linnaeus.engine.train import Step
from linnaeus.explain.microscope import Microscope
from linnaeus.explain.nonfinite import find_culprit, save_step


@contextmanager
def looked_at(state: State, rule: StepRule, recorder: Recorder) -> Iterator[Step]:
    """Yields `take_step` with a microscope over it, and writes what that cost when the block is done."""

    def as_seen(batch: Batch, step: int) -> Tensor:
        images = rule.preprocess(batch.images)
        return images if rule.mix is None else rule.mix(images, batch.targets, batch.valid, step)[0]

    microscope = Microscope(
        state.model,
        state.optimizer,
        recorder,
        as_seen=as_seen,
        to_pixels=lambda images: _to_pixels(images, rule.preprocess),
        total_steps=rule.total_steps,
    )

    def step(state: State, batch: Batch, rule: StepRule) -> None:
        with microscope.looking(state.step, batch):
            take_step(state, batch, rule)

    yield step
    microscope.close(state.step)


def explain_nonfinite(
    run: Run,
    config: Config,
    state: State,
    loader: Loader,
    rule: StepRule,
    *,
    until: int,
    display: Display,
) -> str:
    """Makes the steps since the last checkpoint again until one is not finite; names its culprit and saves it.

    Args:
        state: as built, before the first step; it is used up.
        until: the step at which it was noticed.

    Returns:
        What was found and what to try, as the end of a line.
    """
    if any(run.checkpoints.glob("step-*")):
        load_newest(run.checkpoints, state)
    display.say(f"the loss is not finite: looking for the step that did it, from step {state.step:,} on")
    state.model.train()
    for batch in _batches(state, loader, until):
        number, before = state.step, {name: t.detach().clone() for name, t in state.model.state_dict().items()}
        take_step(state, batch, rule)
        if are_finite([state.sums, *state.model.state_dict().values()]):
            continue
        state.step = number
        state.model.load_state_dict(before)
        evidence = find_culprit(state.model, lambda: take_step(state, batch, rule))  # noqa: B023  # called at once
        if evidence.culprit is None:
            break
        path = run.folder / "nonfinite" / f"step-{number + 1}.safetensors"
        save_step(path, evidence, before, batch, {**_about(config, state), "step": number + 1})
        return f"In step {number + 1:,}, {evidence.culprit}. Saved for replay: {path}. {_advice(config, number)}"
    again = "When the steps were made again all was finite: on this device they do not repeat exactly"
    return f"{again}. {_advice(config, state.step)}"


def _batches(state: State, loader: Loader, until: int) -> Iterator[Batch]:
    """Those of the loop from `state.step` to step `until`."""
    while state.step < until:
        epoch, start = divmod(state.step, loader.num_batches)
        for batch in loader.epoch(epoch, start):
            yield batch.to(state.sums.device)
            if state.step == until:
                break


def _about(config: Config, state: State) -> dict[str, object]:
    model = state.model
    architecture = {
        "name": config.model.name,
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        "image_size": model.image_size,
        "options": dict(config.model.options),
    }
    precision = "bf16" if config.train.precision == "bf16" else "fp32"
    return {"architecture": architecture, "precision": precision, "channels_last": bool(config.train.channels_last)}


def _advice(config: Config, steps_before: int) -> str:
    if steps_before == 0:
        return "No step was taken before it: look at the batch and at the network's first weights"
    helps = [f"a lower --lr than {config.optim.lr:.3g}"]
    if not config.optim.clip_norm:
        helps.append("optim.clip_norm=1")
    if config.train.precision == "bf16":
        helps.append("--precision fp32")
    return f"What helps most often: {', or '.join(helps)}"


def _to_pixels(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Undoes the normalisation: (B, C, H, W) float -> the same in [0, 1]."""
    return (images - preprocess.shift) / preprocess.scale / 255
