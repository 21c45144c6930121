"""The mean of several checkpoints, which often generalises better than each of them."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

STATISTICS_IMAGES = 10_000
"""Training images that are enough for the running statistics of BatchNorm: their mean is settled long before."""


def average_weights(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts of one network, such as those of its last or its best epochs.

    Izmailov et al. (arXiv:1803.05407) for the weights along one run. Sums are taken in float64, one state at a time, so
    states may come from files. Integer tensors, the counters of BatchNorm, are the last state's. Its running statistics
    are averaged too, which is close to those of the averaged weights but not equal: `measure_statistics` has those.

    Args:
        states: at least one, with the same names and shapes.

    Returns:
        Name -> tensor, with the types of the first state; no memory is shared.

    Raises:
        ValueError: there is none, or they do not fit together.
    """
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    number = 0
    for number, state in enumerate(states, start=1):
        if number == 1:
            dtypes = {name: tensor.dtype for name, tensor in state.items()}
        _check_fits(sums, state, number)
        for name, tensor in state.items():
            if not tensor.is_floating_point():
                sums[name] = tensor.detach().clone()
            elif number == 1:
                sums[name] = tensor.detach().to(torch.float64, copy=True)
            else:
                sums[name] += tensor.detach()
    if number == 0:
        raise ValueError("there are no weights to average: give at least one state dict")
    return {name: (s / number if s.is_floating_point() else s).to(dtypes[name]) for name, s in sums.items()}


def measure_statistics(model: nn.Module, images: Iterable[Tensor], *, seed: int) -> None:
    """Measures the running statistics of BatchNorm anew, as the mean over batches; without BatchNorm it does nothing.

    Args:
        model: on the device of the images; its mode is kept.
        images: batches of (B, C, H, W) float, as the network is given them in training.
        seed: of dropout and stochastic depth, which are on as in training.
    """
    devices = sorted({t.device.index for t in model.parameters() if t.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        update_bn(images, model)


def _check_fits(sums: Mapping[str, Tensor], state: Mapping[str, Tensor], number: int) -> None:
    if number == 1:
        return
    odd = sorted(sums.keys() ^ state.keys()) or [name for name in sums if sums[name].shape != state[name].shape]
    if odd:
        raise ValueError(f"state {number} differs from the first in {', '.join(odd[:3])}: average one network's alone")
