"""How much memory training takes, at its peak and by phase.

On CUDA it is what PyTorch's tensors take. On a CPU it is the resident set of this process, as the system counts it:
with the program itself, without the processes that decode images, and a little more than tensors need.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linnaeus.core.batch import Batch
from linnaeus.core.memory import return_freed_memory
from linnaeus.explain.hooks import watch

MIB = 2**20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: torch.device) -> None:
    """From here on `peak` is that of what follows, where the system can forget: on CUDA and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif platform.system() == "Linux":
        return_freed_memory()
        try:
            _CLEAR.write_text("5")  # resets the peak of the resident set (man 5 proc)
        except OSError:
            return  # a container may forbid it: the peaks are those since the program began then


def peak(device: torch.device) -> int:
    """Bytes at the peak since `forget_peak`, or where that has no effect since the program began; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if platform.system() == "Linux":
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if platform.system() == "Windows":
        return 0
    import resource  # absent on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def memory_by_phase(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    bring: Callable[[], Batch],
    take: Callable[[Batch], None],
    device: torch.device,
) -> dict[str, int]:
    """Peak bytes of one training step.

    Args:
        model: the network that `take` trains; not compiled.
        optimizer: the one that `take` steps.
        bring: makes a batch and brings it to the device.
        take: takes the step on it, however it is cut into micro-batches.

    Returns:
        "data", "forward", "backward" (with the loss) and "optimizer" (from the last backward pass on) -> bytes. The
        optimizer makes its state in its first step: for what all other steps take, measure a later one.
    """
    forget_peak(device)
    batch = bring()
    peaks = {"data": peak(device)}
    with phases(model, optimizer, device) as later:
        take(batch)
    return {**peaks, **later}


@contextmanager
def phases(model: nn.Module, optimizer: Optimizer, device: torch.device) -> Iterator[dict[str, int]]:
    """Yields what gets the peaks of the forward and backward passes, and of the optimizer, of the step in the block."""
    peaks: dict[str, int] = {}
    has_begun = False

    def close(phase: str) -> None:
        peaks[phase] = max(peaks.get(phase, 0), peak(device))
        forget_peak(device)

    def forward_begins(_name: str, _inputs: list[Tensor]) -> None:
        if "forward" in peaks:
            close("backward")  # of the micro-batch before
        else:
            forget_peak(device)

    def step_begins(*_: object) -> None:
        nonlocal has_begun
        if not has_begun:  # an optimizer that calls the step of its base class begins twice
            close("backward")
        has_begun = True

    steps = [
        optimizer.register_step_pre_hook(step_begins),
        optimizer.register_step_post_hook(lambda *_: close("optimizer")),
    ]
    try:
        with watch([("", model)], before=forward_begins, after=lambda *_: close("forward")):
            yield peaks
    finally:
        for handle in steps:
            handle.remove()
