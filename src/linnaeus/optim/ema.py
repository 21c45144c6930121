"""An exponential moving average of a model, which often generalises better than the weights of the last step."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn

Slot = tuple[Mapping[str, Tensor | None], str]
"""A module's own parameters or buffers, and the name of one of them. To find all takes far longer than to read them."""


class Ema:
    """Holds the average as a module of its own, ready to evaluate.

    After an update with decay d the average is d * average + (1 - d) * model, for parameters and floating buffers
    (the statistics of BatchNorm); integer buffers are copied. Its whole state is `module.state_dict()`.
    Build it before the model is sharded: a copy of a sharded model cannot run alone.

    Attributes:
        module: a deep copy of the model, in eval mode, without gradients.
        decay: in [0, 1), what the decay rises to.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model as it is.

        Raises:
            ValueError: decay is outside [0, 1), or the model holds 16-bit floats: an increment of 1 - decay, usually
                1e-3 or less, is rounded away in them, and the average would stand still.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: expected a number in [0, 1), such as 0.9999")
        named = chain(model.named_parameters(), model.named_buffers())
        narrow = [name for name, tensor in named if tensor.is_floating_point() and tensor.element_size() < 4]
        if narrow:
            raise ValueError(f"{', '.join(narrow[:3])}: 16-bit floats cannot be averaged; keep the weights in float32")
        self.decay = decay
        self.module = deepcopy(model).eval().requires_grad_(False)
        self._averages = _split(self.module)
        self._source, self._weights = model, _split(model)

    def decay_at(self, step: int) -> float:
        """The decay of an update after `step` earlier ones: min(decay, (1 + step) / (10 + step)).

        The warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=...)`: the first weights are soon forgotten.
        """
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model`, in place and without allocating tensors.

        Args:
            model: the network that the average was taken of, after its optimizer step.
            step: how many updates came before, from 0.
        """
        if model is not self._source:
            self._source, self._weights = model, _split(model)
        (averages, copies), (weights, counters) = map(_read, self._averages), map(_read, self._weights)
        if averages:
            torch._foreach_lerp_(averages, weights, 1 - self.decay_at(step))
        if copies:
            torch._foreach_copy_(copies, counters)


def _split(model: nn.Module) -> tuple[list[Slot], list[Slot]]:
    """Where parameters and buffers are: those to average and those to copy, in the order of the model, each once."""
    found: dict[int, tuple[Tensor, Slot]] = {}
    homes: list[Mapping[str, Tensor | None]] = [module._parameters for module in model.modules()]
    homes += [module._buffers for module in model.modules()]
    for kept in homes:
        for name, tensor in kept.items():
            if tensor is not None:
                found.setdefault(id(tensor), (tensor, (kept, name)))
    floating = [slot for tensor, slot in found.values() if tensor.is_floating_point()]
    return floating, [slot for tensor, slot in found.values() if not tensor.is_floating_point()]


def _read(slots: list[Slot]) -> list[Tensor]:
    """The tensors that are there now: a module may have replaced the one that was there before."""
    return [tensor.detach() for kept, name in slots if (tensor := kept[name]) is not None]
