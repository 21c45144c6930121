"""Where the time of a run's training steps goes, on its own images: waiting for batches, or what the step computes."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from linnaeus.app.images import explain_wait
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.train import reopen
from linnaeus.core.device import describe
from linnaeus.core.errors import RequestError
from linnaeus.data.loader import watched_workers
from linnaeus.engine.autotune import Speed, time_steps
from linnaeus.engine.guard import compile_in_place
from linnaeus.engine.step import take_step
from linnaeus.explain.profile import Profile, profile_step

SECONDS = 3.0
"""How long steps are measured as they follow each other; at least one is."""
BOUND = 0.3
"""A run that waits for batches for more than this share of its time is bound by its images."""


@dataclass(frozen=True)
class Profiled:
    """What was found.

    Attributes:
        speed: of steps as they follow each other in training, each with its batch.
        step: of steps on one batch that is there.
        helps: what would help against waiting for images.
    """

    folder: Path
    device: str
    batch_size: int
    speed: Speed
    step: Profile
    helps: str

    def tables(self) -> list[Table]:
        """The kinds of work, and the operators that take longest."""
        kinds = Table(title=f"A step of {self.batch_size} images, on {self.device}", title_justify="left")
        for column in ("kind of work", "share of the computing"):
            kinds.add_column(column, justify="left" if column == "kind of work" else "right")
        for name, share in self.step.shares.items():
            kinds.add_row(name, f"{share:.1%}")
        operators = Table(title="The operators that take longest", title_justify="left")
        for column in ("operator", "share of the computing", "calls a step"):
            operators.add_column(column, justify="left" if column == "operator" else "right")
        for name, share, calls in self.step.operators:
            operators.add_row(name, f"{share:.1%}", f"{calls:g}")
        return [kinds, operators]

    def verdict(self) -> str:
        """What bounds the training, and what helps."""
        with_batch = f"{1000 * self.speed.step:,.3g} ms with its batch, {self.speed.wait:.0%} of it waiting for images"
        if self.speed.wait > BOUND:
            first = f"Bound by the images: a step takes {with_batch}: {self.helps}."
            return f"{first}\nOn one batch, {self.step.verdict}."
        most = f"computing, most of all {next(iter(self.step.shares))}"
        bound = "the program around the operators" if self.step.waits else most
        return f"Bound by {bound}: a step takes {with_batch}.\nOn one batch, {self.step.verdict}."

    def to_json(self) -> dict[str, Any]:
        """All figures for machines."""
        return {
            **{name: getattr(self, name) for name in ("device", "batch_size")},
            "folder": str(self.folder),
            "training": asdict(self.speed),
            "step": asdict(self.step),
            "verdict": self.verdict(),
        }


def profile(folder: Path, *, display: Display) -> Profiled:
    """Takes steps of a run on a state that is thrown away; the run is read and never written.

    Args:
        folder: of a run, finished or not, whose images are where they were.

    Raises:
        RequestError: if the folder is not a run, its images are gone, or it takes no steps.
        DataError: if the images are not those the run began with.
    """
    begun = reopen(Run(folder), display)
    config = begun.config
    if not config.train.takes_steps:
        raise RequestError(f"{folder} fits a linear head and takes no training steps: there is nothing to profile")
    state = begun.state()
    if config.train.compile:
        compile_in_place(state.model)
    display.say("measuring steps, with no change to the run")
    with watched_workers():
        loader = begun.images.training()
        rule = replace(begun.rule(loader), schedule=lambda _: 0.0)  # any number of steps, and none of them diverges
        speed = time_steps(state, loader, rule, device=begun.device, limit=SECONDS)
        busy = loader.busy
        batch = next(iter(loader.epoch(0))).to(begun.device)
    step = profile_step(lambda: take_step(state, batch, rule), device=begun.device)
    helps = explain_wait(config.data, busy)
    return Profiled(folder, describe(begun.device), config.train.images_per_step, speed, step, helps)
