"""The peak of each phase is that of what the phase does, and watching keeps nothing."""

import gc

import pytest
import torch
from torch import nn

from linnaeus.core.batch import Batch
from linnaeus.explain.memory import MIB, forget_peak, memory_by_phase, peak

CPU = torch.device("cpu")
SIZE = 64 * MIB
MARGIN = 0.8 * SIZE


def can_forget() -> bool:
    gc.collect()  # what earlier tests left must not go away between two phases
    held = torch.ones(SIZE // 4)
    high = peak(CPU)
    del held
    forget_peak(CPU)
    return peak(CPU) < high - MARGIN


class Greedy(nn.Module):
    """Takes much memory for a moment in the forward pass, or while its gradient comes."""

    def __init__(self, *, when: str):
        super().__init__()
        self.scale, self.when = nn.Parameter(torch.ones(1)), when

    def forward(self, x):
        if self.when == "forward":
            spend()
        output = x * self.scale
        if self.when == "backward":
            output.register_hook(lambda gradient: spend())
        return output


def spend() -> None:
    torch.ones(SIZE // 4)


class Optimizer(torch.optim.SGD):
    """Its step begins twice for those who look on: PyTorch tells them of the base class's step, too."""

    greedy = False

    def step(self, closure=None):
        if self.greedy:
            spend()
        super().step(closure)


@pytest.mark.parametrize("when", ["data", "forward", "backward", "optimizer"])
def test_a_phase_that_takes_much_has_the_highest_peak(when):
    if not can_forget():
        pytest.skip("this system does not let a process forget its peak")
    model = Greedy(when=when)
    torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Optimizer(model.parameters(), lr=0.1)
    optimizer.greedy = when == "optimizer"

    def bring() -> Batch:
        if when == "data":
            spend()
        return Batch.of(torch.ones(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64), torch.arange(2))

    def take(batch: Batch) -> None:
        for part in batch.split(2):
            torch.autograd.backward(model(part.images).sum())
        optimizer.step()

    peaks = memory_by_phase(model, optimizer, bring=bring, take=take, device=CPU)
    assert list(peaks) == ["data", "forward", "backward", "optimizer"]
    assert max(peaks, key=lambda phase: peaks[phase]) == when
    assert all(peaks[when] - size > MARGIN for phase, size in peaks.items() if phase != when)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.gpu
def test_on_cuda_it_is_what_tensors_take():
    device = torch.device("cuda")
    forget_peak(device)
    before = peak(device)
    held = torch.ones(SIZE // 4, device=device)
    assert peak(device) - before >= SIZE
    del held
    forget_peak(device)
    assert peak(device) - before < SIZE
