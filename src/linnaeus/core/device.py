"""Where and in which arithmetic a network runs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from linnaeus.core.errors import RequestError

Precision = Literal["fp32", "bf16"]
PIXELS_A_THREAD = 4 * 224 * 224
"""Pixels that a CPU is shown at once, a thread: what passes between layers stays small. More are no faster, and each
process must be given the memory for them first: a virtual machine took 5 s for a GB."""


def pick(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, then Apple's MPS, then the CPU.

    Raises:
        RequestError: if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by build
        reason = str(error).splitlines()[0]
        raise RequestError(f"device '{name}' cannot be used: {reason}. Try --device cpu") from None
    return device


def describe(device: torch.device) -> str:
    """The device in words, for manifests and tables: "cpu, 2 threads", "NVIDIA H100"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself, rather than by emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context of a forward pass: bfloat16 where torch deems it safe, or no change for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def at_once(images: Tensor) -> int:
    """How many of (B, C, H, W) images a network is best shown at once, where it only answers; at least 1."""
    if images.device.type != "cpu":
        return max(1, len(images))
    return max(1, torch.get_num_threads() * PIXELS_A_THREAD // (images.shape[2] * images.shape[3]))


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that a clock read next measures finished work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seed(device: torch.device, number: int) -> None:
    """Seeds what torch draws from on the CPU and on one device.

    `torch.manual_seed` seeds all devices that there might be, and without a GPU takes half a millisecond to note that.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
