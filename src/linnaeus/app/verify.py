"""Proof of exact resume on a person's own run: a stretch of it is trained again, and every tensor compared."""

import shutil
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.app.forecast import JOURNAL
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.train import open_state, reopen, run_loop
from linnaeus.core.errors import EnvironmentFault, Interrupted, RequestError, VerdictError
from linnaeus.core.record import read_records
from linnaeus.engine.checkpoint import BEST, checkpoints, read_checkpoint, step_of

Content = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass(frozen=True)
class Verified:
    """What was compared, all of it identical to the bit.

    Attributes:
        first, last: steps of the two checkpoints.
        tensors: how many.
        values: how many numbers they hold.
        seconds: how long it took.
    """

    first: int
    last: int
    tensors: int
    values: int
    seconds: float


def verify(folder: Path, *, display: Display) -> Verified:
    """Trains from one checkpoint of a run to the next one again, in a folder of its own, and compares every tensor.

    With one checkpoint alone it begins at the beginning. The run may be finished or not; it is read and never written.

    Raises:
        RequestError: if there is nothing to compare.
        VerdictError: if something differs, naming it.
    """
    began = time.monotonic()
    run = Run(folder)
    begun = reopen(run, display)
    with tempfile.TemporaryDirectory(prefix="linnaeus-verify-") as scratch:
        copy = Run(Path(scratch))
        copy.checkpoints.mkdir()
        last, expected = _copy(run, copy, display)
        state = open_state(copy, begun, display)
        first = state.step
        _forecast(run, first, last, display)
        recorded_due = expected[1].get("due", False)

        def stop() -> int:
            return signal.SIGTERM if state.step >= last and state.due == recorded_due else 0

        with suppress(Interrupted):  # asked to stop where the run was saved
            run_loop(copy, begun, state, display=display, stop=stop)
        found = read_checkpoint(copy.checkpoints / f"step-{last:09d}.safetensors")
    differences = _compare(expected, found)
    values = sum(tensor.numel() for tensor in expected[0].values())
    if differences:
        more = f"; and {len(differences) - 3:,} more" if len(differences) > 3 else ""
        raise VerdictError(
            f"steps {first:,} to {last:,} trained again do not give what the run recorded: {'; '.join(differences[:3])}"
            f"{more}. Exact are one machine, one set of versions and one number of threads; on CUDA, deterministic mode"
        )
    return Verified(first, last, len(expected[0]), values, time.monotonic() - began)


def _copy(run: Run, copy: Run, display: Display) -> tuple[int, Content]:
    """Copies the earlier of the two newest whole checkpoints; the step and the content of the later one.

    Raises:
        RequestError: if there is none.
    """
    whole: list[tuple[Path, Content]] = []
    for path in checkpoints(run.checkpoints):
        try:
            whole.append((path, read_checkpoint(path)))
        except EnvironmentFault as error:
            display.say(f"passed over: {error}")
        if len(whole) == 2:
            break
    if not whole or step_of(whole[0][0]) == 0:
        raise RequestError(f"{run.checkpoints} holds no checkpoint with a step to take again: train for a while first")
    for path in [run.checkpoints / JOURNAL, run.checkpoints / BEST, *(path for path, _ in whole[1:])]:
        if path.is_file():
            shutil.copy(path, copy.checkpoints)
    return step_of(whole[0][0]), whole[0][1]


def _forecast(run: Run, first: int, last: int, display: Display) -> None:
    """Says what will happen, and how long it will take, if the run has recorded how fast it was."""
    speeds = [line["train/images_per_second"] for line in read_records(run.folder) if "train/images_per_second" in line]
    batch = run.read_config().train.images_per_step
    time_needed = f", about {(last - first) * batch / speeds[-1]:,.0f} s and evaluations" if speeds else ""
    display.say(f"training steps {first:,} to {last:,} again{time_needed}; the run itself is not changed")


def _compare(expected: Content, found: Content) -> list[str]:
    """What differs, in words; the nothing that is promised is an empty list."""
    (tensors, about), (others, about_others) = expected, found
    differences = [f"{name} is missing on one side" for name in sorted(tensors.keys() ^ others.keys())]
    for name in sorted(tensors.keys() & others.keys()):
        left, right = tensors[name], others[name]
        if left.dtype != right.dtype or left.shape != right.shape:
            differences.append(f"{name} has another type or shape")
        elif not torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8)):  # NaN too
            gap = float((left.double() - right.double()).abs().max())
            differences.append(f"{name} differs by up to {gap:.3g}")
    keys = sorted((about.keys() | about_others.keys()) - {"rollbacks"})  # a later one was written into this checkpoint
    changed = [key for key in keys if about.get(key) != about_others.get(key)]
    return differences + [f"{key} was {about.get(key)} and is {about_others.get(key)}" for key in changed]
