"""The state of a run on disk: whole or absent, checked by content, the newest good one found."""

from pathlib import Path

import torch
from torch import Tensor

from linnaeus.core.errors import EnvironmentFault
from linnaeus.core.files import load_tensors, save_tensors
from linnaeus.engine.step import State
from linnaeus.optim.optimizers import load_optimizer_tensors, optimizer_tensors

KIND, VERSION = "linnaeus-checkpoint", 1
WEIGHTS_KIND = "linnaeus-weights"


def save_checkpoint(folder: Path, state: State, *, keep: int) -> Path:
    """Writes `step-<number>.safetensors` and removes all but the newest `keep` of them."""
    path = folder / f"step-{state.step:09d}.safetensors"
    about = {"step": state.step, "best": state.best}
    save_tensors(path, KIND, VERSION, _tensors(state), about)
    for old in _checkpoints(folder)[keep:]:
        old.unlink()
    return path


def load_newest(folder: Path, state: State) -> list[str]:
    """Restores the newest checkpoint that is whole, into a freshly built state.

    Returns:
        One line for each newer checkpoint that was passed over because it is damaged.

    Raises:
        EnvironmentFault: if there is none to restore.
    """
    damaged = []
    for path in _checkpoints(folder):
        try:
            tensors, about = load_tensors(path, KIND, VERSION)
        except EnvironmentFault as error:
            damaged.append(str(error))
            continue
        _restore(state, tensors)
        state.step = about["step"]
        state.best = None if about["best"] is None else (about["best"][0], about["best"][1])
        return damaged
    raise EnvironmentFault("; ".join([*damaged, f"{folder} holds no checkpoint to resume from"]))


def save_weights(path: Path, state: State) -> None:
    """Writes the weights that are evaluated, alone."""
    save_tensors(path, WEIGHTS_KIND, VERSION, state.judged.state_dict(), {"step": state.step})


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads what `save_weights` wrote."""
    return load_tensors(path, WEIGHTS_KIND, VERSION)[0]


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _tensors(state: State) -> dict[str, Tensor]:
    tensors = {f"model/{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"optimizer/{name}": t for name, t in optimizer_tensors(state.optimizer, state.model).items()}
    if state.ema is not None:
        tensors |= {f"ema/{name}": tensor for name, tensor in state.ema.module.state_dict().items()}
    return {**tensors, "sums": state.sums}


def _restore(state: State, tensors: dict[str, Tensor]) -> None:
    state.model.load_state_dict(_under("model/", tensors))
    load_optimizer_tensors(state.optimizer, state.model, _under("optimizer/", tensors))
    if state.ema is not None:
        state.ema.module.load_state_dict(_under("ema/", tensors))
    with torch.no_grad():
        state.sums.copy_(tensors["sums"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
