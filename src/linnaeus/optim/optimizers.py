"""Optimizers by name, and their state as a flat dict of tensors that a safetensors file can hold."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.optim.groups import Groups
from linnaeus.optim.muon import Muon


class OptimizerFactory(Protocol):
    """What every entry of `OPTIMIZERS` accepts; each adds its own keywords."""

    def __call__(self, groups: Groups, *, lr: float, fused: bool | None = None) -> Optimizer:
        """Build the optimizer of `groups`, with the base learning rate `lr`."""


def sgd(groups: Groups, *, lr: float, momentum: float = 0.9, fused: bool | None = None) -> Optimizer:
    """SGD with the momentum of Nesterov in the form of Sutskever et al. (2013), as torch implements it.

    Args:
        groups: from `param_groups`.
        lr: the base learning rate, which a schedule multiplies.
        momentum: in (0, 1).
        fused: one kernel for the whole update; None: wherever it exists. Lay the model out (channels_last) before the
            first step and not again: the fused kernels on CPU take the layout of parameter and state to be the same.
    """
    fused = can_fuse(groups) if fused is None else fused
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=fused)


def adamw(
    groups: Groups,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool | None = None,
) -> Optimizer:
    """AdamW of Loshchilov and Hutter (2019): Adam with weight decay that bypasses the gradient's statistics.

    Args:
        groups: from `param_groups`.
        lr: the base learning rate, which a schedule multiplies; the decay is multiplied by it too.
        betas: decay of the averages of the gradient and of its square, each in [0, 1).
        eps: added to the denominator.
        fused: as in `sgd`.
    """
    fused = can_fuse(groups) if fused is None else fused
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def muon(groups: Groups, *, lr: float, momentum: float = 0.95, fused: bool | None = None) -> Optimizer:
    """`Muon` for the hidden matrices, AdamW for the rest.

    Args:
        groups: from `param_groups`, split by `mark_hidden`.
        lr: the base learning rate of both, which a schedule multiplies; the decay is multiplied by it too.
        momentum: in [0, 1).
        fused: as in `sgd`, of AdamW.
    """
    return Muon(groups, lr=lr, momentum=momentum, fused=can_fuse(groups) if fused is None else fused)


OPTIMIZERS: dict[str, OptimizerFactory] = {"sgd": sgd, "adamw": adamw, "muon": muon}

# What one step leaves behind for each parameter. Loading checks it: the momentum of SGD means nothing to AdamW.
STATE_KEYS: dict[type[Optimizer], frozenset[str]] = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    Muon: frozenset({"momentum_buffer"}),  # of its hidden groups; the others are AdamW's
}


def can_fuse(groups: Groups) -> bool:
    """Whether torch has fused SGD and AdamW for the device and dtype of all parameters.

    One pass over memory instead of about ten, and on a GPU a handful of launches instead of hundreds. Torch does not
    choose it by itself, and raises where it does not exist.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.is_floating_point() and p.device.type in {"cpu", "cuda", "mps"} for p in parameters)


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of one of `OPTIMIZERS` as `"{parameter name}/{state key}"` -> tensor, such as `"fc.bias/exp_avg"`.

    Hyper-parameters are not part of it: they come from the configuration and the schedule. Before the first step it is
    empty. The tensors are contiguous, as safetensors demands, and may share memory with the optimizer: write or clone
    them before its next step.

    Raises:
        ValueError: the optimizer holds a parameter that the model does not, or some parameters have state and others
            none because no gradient has reached them.
    """
    tensors = {
        f"{name}/{key}": value.detach().contiguous()
        for name, parameter, _ in _named_parameters(optimizer, model)
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }
    _check_complete(optimizer, model, tensors, "freeze those that no gradient reaches (requires_grad = False)")
    return tensors


def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned, so that the next steps are bit-identical. Copies; never aliases.

    Raises:
        ValueError: a parameter or a state key is unknown or missing, or a shape differs; nothing is loaded then.
    """
    _check_complete(optimizer, model, tensors, "the state is of another model or another optimizer")
    # Torch numbers the parameters in the order of the groups.
    state = {
        index: {key: _copy_for(parameter, f"{name}/{key}", tensors[f"{name}/{key}"]) for key in keys if tensors}
        for index, (name, parameter, keys) in enumerate(_named_parameters(optimizer, model))
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named_parameters(optimizer: Optimizer, model: nn.Module) -> Iterator[tuple[str, Tensor, frozenset[str]]]:
    """The optimizer's parameters in its own order: the name that the model gives each, and the keys of its state."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        is_adamw = isinstance(optimizer, Muon) and not group["hidden"]
        keys = STATE_KEYS[torch.optim.AdamW if is_adamw else type(optimizer)]
        for parameter in group["params"]:
            if parameter not in names:
                raise ValueError(
                    f"the optimizer holds a parameter of shape {tuple(parameter.shape)} that is not of this model"
                )
            yield names[parameter], parameter, keys


def _check_complete(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], advice: str) -> None:
    """No state at all (no step yet), or every state key of every parameter and nothing else."""
    expected = {f"{name}/{key}" for name, _, keys in _named_parameters(optimizer, model) for key in keys}
    unknown, missing = sorted(tensors.keys() - expected), sorted(expected - tensors.keys())
    if tensors and (unknown or missing):
        raise ValueError(
            f"optimizer state does not fit the parameters: {_few(unknown)} unknown, {_few(missing)} missing; {advice}"
        )


def _few(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])})" if names else "none"


def _copy_for(parameter: Tensor, name: str, value: Tensor) -> Tensor:
    """A copy of one state tensor, laid out in memory like its parameter."""
    if name.endswith("/step"):
        # Torch counts steps on the host, and where it is fused load_state_dict moves the count to the device.
        return value.detach().to("cpu", copy=True)
    if value.shape != parameter.shape:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}: expected {tuple(parameter.shape)}")
    # A file holds contiguous tensors. Under channels_last the fused kernels on CPU would pair each parameter with the
    # momentum of another, without a word.
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value.detach())
