"""What keeps one bad step from ending a run: faults counted on the device, steps taken back, memory, the compiler."""

from collections.abc import Sequence
from itertools import chain, zip_longest

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.core.errors import EnvironmentFault

PATIENCE = 10
"""Steps in a row that are left out before the run is stopped: something else than a bad batch is wrong then."""
SETTLED = 20
"""Steps after which a run has a usual loss, so that another one is a spike."""
MEMORY = 50
"""Steps of which the usual loss is the mean, those further back counting less and less."""
FAULTS = 5
"""What is counted, on the device: steps left out in this epoch; left out in a row, now and at most; the usual loss,
and of how many steps."""
FAILURES = (RuntimeError, MemoryError, OSError, ImportError, SyntaxError, ValueError, EOFError)
"""What a lack of memory raises, and what a compiler or its torn cache does."""
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "std::bad_alloc")


def count_fault(faults: Tensor, loss: Tensor, norm: Tensor | None, spike: float) -> Tensor:
    """Decides whether a step is good, and counts it, without waiting for the device.

    Args:
        faults: (FAULTS,) float, as above; changed in place.
        loss: () of the step, a mean over its images.
        norm: () of its gradient; None where the weights are looked at instead.
        spike: a loss more than so many times the usual one is a fault; 0 for no such limit.

    Returns:
        () bool.
    """
    good = torch.isfinite(loss) if norm is None else torch.isfinite(loss) & torch.isfinite(norm)
    left_out, row, longest, usual, seen = faults.unbind()
    if spike > 0:
        good &= (seen < SETTLED) | (loss <= spike * usual)
    bad = (~good).to(faults.dtype)
    row = (row + 1) * bad
    seen = seen + (1 - bad)
    usual = torch.where(good, usual + (loss - usual) / seen.clamp(min=1, max=MEMORY), usual)
    faults.copy_(torch.stack([left_out + bad, row, torch.maximum(longest, row), usual, seen]))
    return good


def moving(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """All that a step changes: weights, buffers, and what the optimizer remembers, which grows with its first step."""
    remembered = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers(), remembered)]


def put_back(tensors: Sequence[Tensor], before: Sequence[Tensor], *, unless: Tensor) -> None:
    """Undoes a step on the device, where `unless`, () bool, is False: what was not there `before` becomes zero.

    Zero is what each of our optimizers begins with. One way for all of them: their own switches are for some alone.
    """
    for tensor, old in zip_longest(tensors, before):
        keep = unless.to(tensor.device)
        tensor.copy_(torch.where(keep, tensor, torch.zeros_like(tensor) if old is None else old))


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all floating point values are finite. Waits for the device, once."""
    found = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
    return bool(torch.stack(found).all())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of any device was too small; on the CPU, torch has no class of its own for it."""
    is_known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known or (isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY))


def too_little_memory(images: int) -> EnvironmentFault:
    """What is raised where training on so many images at a time does not fit."""
    advice = "take a smaller --image-size or --model, or train.recompute=true"
    return EnvironmentFault(f"memory is too small for {images} image(s) at a time: {advice}")


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that compilers add; their first line may only announce a second one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[:2] if lines and lines[0].endswith(":") else lines[:1]
    return " ".join(said) or type(error).__name__


def is_compiled(model: nn.Module) -> bool:
    """Whether calls of the network go to compiled code."""
    return model._compiled_call_impl is not None


def compile_in_place(model: nn.Module) -> None:
    """Compiles the network when it is first called; the names of its weights stay what they are.

    For each shape on its own: code for any shape is made when a second one comes, and so would depend on where a run
    was resumed.
    """
    model.compile(dynamic=False)


def run_as_it_is(model: nn.Module) -> None:
    """Undoes `compile_in_place`."""
    model._compiled_call_impl = None


def go_without_compiler(model: nn.Module, error: BaseException) -> str:
    """Runs the network as it is from now on, if its compiler may be what failed: what to say of it, or "" if not."""
    if not is_compiled(model) or is_out_of_memory(error) or str(error).startswith("DataLoader worker"):
        return ""
    run_as_it_is(model)
    return f"the network runs as it is, since compiling it failed: {first_line(error)}"
