"""The state of a run on disk: whole or absent, checked by content, the newest good one found."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.engine.step import State
from linnaeus.optim.optimizers import load_optimizer_tensors, optimizer_tensors

KIND, VERSION = "linnaeus-checkpoint", 1
WEIGHTS_KIND = "linnaeus-weights"
BEST = "best.safetensors"


def save_checkpoint(folder: Path, state: State, *, keep: int) -> Path:
    """Writes `step-<number>.safetensors` and removes all but the newest `keep` of them, and the one to go back to."""
    path = folder / f"step-{state.step:09d}.safetensors"
    about = {
        "step": state.step,
        "best": state.best,
        "best_step": state.best_step,
        "ranked": state.ranked,
        "stopped": state.stopped,
        "due": state.due,
        "micro_batches": state.micro_batches,
        "rollbacks": state.rollbacks,
        "anchor": state.anchor,
        "compiled": state.compiled,
    }
    save_tensors(path, KIND, VERSION, _tensors(state), about)
    for old in checkpoints(folder)[keep:]:
        if step_of(old) != state.anchor:
            old.unlink()
    return path


def load_newest(folder: Path, state: State) -> list[str]:
    """Restores the newest checkpoint that is whole, into a state of the same configuration.

    Returns:
        One line for each newer checkpoint that was passed over because it is damaged.

    Raises:
        EnvironmentFault: if there is none to restore.
    """
    damaged = []
    for path in checkpoints(folder):
        try:
            tensors, about = read_checkpoint(path)
        except EnvironmentFault as error:
            damaged.append(str(error))
            continue
        _restore(state, tensors, about)
        return damaged
    raise EnvironmentFault("; ".join([*damaged, f"{folder} holds no checkpoint to resume from"]))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, on the CPU, and what it says of itself.

    Raises:
        EnvironmentFault: if it is missing, torn, altered or cannot be read.
    """
    try:
        return load_tensors(path, KIND, VERSION)
    except RequestError as error:  # also its header can be hit, and then it seems to be another kind of file
        raise EnvironmentFault(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error.strerror}") from None


def save_weights(path: Path, state: State) -> None:
    """Writes the weights that are evaluated, alone."""
    write_weights(path, state.judged.state_dict(), state.step)


def write_weights(path: Path, weights: dict[str, Tensor], step: int) -> None:
    """Writes weights that are no longer those of the state."""
    save_tensors(path, WEIGHTS_KIND, VERSION, weights, {"step": step})


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads what `save_weights` wrote.

    Raises:
        RequestError, EnvironmentFault: if the file is missing, of another kind, or damaged.
    """
    return load_tensors(path, WEIGHTS_KIND, VERSION)[0]


def checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def step_of(path: Path) -> int:
    """The number of steps that had been taken."""
    return int(path.stem.removeprefix("step-"))


def remove_torn(folder: Path) -> None:
    """Removes what a process left behind that was killed while it saved; no other may be at work in the folder."""
    for path in folder.glob(".*"):  # ours and those of safetensors: neither gives such a name to anything that is whole
        path.unlink()


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"optimizer/{name}": t for name, t in optimizer_tensors(state.optimizer, state.model).items()}
    if state.ema is not None:
        tensors |= {f"ema/{name}": tensor for name, tensor in state.ema.module.state_dict().items()}
    return {**tensors, "sums": state.sums, "faults": state.faults}


def _restore(state: State, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    state.model.load_state_dict(_under("model/", tensors))
    load_optimizer_tensors(state.optimizer, state.model, _under("optimizer/", tensors))
    if state.ema is not None:
        state.ema.module.load_state_dict(_under("ema/", tensors))
    with torch.no_grad():
        state.sums.copy_(tensors["sums"])
        if "faults" in tensors:  # version 0.1 counted none
            state.faults.copy_(tensors["faults"])
    state.step = about["step"]
    state.best = None if about["best"] is None else (about["best"][0], about["best"][1])
    state.best_step = about.get("best_step", 0)
    state.ranked = [(step, (first, second)) for step, (first, second) in about.get("ranked", [])]
    state.stopped = about.get("stopped", False)
    state.due = about.get("due", False)
    state.micro_batches = about.get("micro_batches", 1)
    state.rollbacks = about.get("rollbacks", 0)
    state.anchor = about.get("anchor")
    state.compiled = about.get("compiled", False)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
