"""The weights of chosen epochs, kept beside the checkpoints until the run ends and they are averaged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linnaeus.engine.checkpoint import checkpoints, step_of

Ranked = tuple[int, tuple[float, float]]
"""The step of an evaluation, and how good the state was: the larger the better."""


@dataclass(frozen=True)
class Pick:
    """Which epochs are kept.

    Attributes:
        number: how many.
        which: those with the highest ranks, of equal ones the earlier; or the last.
    """

    number: int
    which: Literal["best", "last"]

    def steps(self, ranked: Sequence[Ranked]) -> list[int]:
        """The steps of the chosen evaluations among all, in the order of time."""
        if self.which == "last":
            return [step for step, _ in ranked[-self.number :]]
        best = sorted(ranked, key=lambda each: each[1], reverse=True)[: self.number]  # stable: the earlier first
        return sorted(step for step, _ in best)


def epoch_path(folder: Path, step: int) -> Path:
    """Where the weights of an evaluation at `step` are kept."""
    return folder / f"epoch-{step:09d}.safetensors"


def forget_epochs(folder: Path, ranked: Sequence[Ranked], pick: Pick) -> None:
    """Removes the weights that no checkpoint in the folder needs: a run may have to go on from any of them."""
    ends = [step_of(path) for path in checkpoints(folder)]
    needed = {step for end in ends for step in pick.steps([each for each in ranked if each[0] <= end])}
    for path in folder.glob("epoch-*.safetensors"):
        if int(path.stem.removeprefix("epoch-")) not in needed:
            path.unlink()
