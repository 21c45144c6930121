"""Where the time of a training step goes, with the verdict in words."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from linnaeus.core.device import synchronize

# Kinds of work: (what it is called, parts of the operators' names, what helps). The first that fits an operator counts.
KINDS = (
    ("optimizer", ("optimizer", "_foreach", "_fused_"), "a larger batch takes fewer steps"),
    ("convolution", ("conv",), "channels last, bf16 and a smaller image make it faster"),
    ("attention and matrix products", ("mm", "linear", "attention", "einsum"), "bf16 and a smaller network help"),
    ("normalisation", ("norm",), "it is bound by memory: channels last and bf16 help"),
    ("pooling", ("pool", "mean"), "it is bound by memory: a smaller image helps"),
    ("copies and layout", ("copy", "to_copy", "contiguous", "clone", "cat", "transpose"), "keep one layout and type"),
    ("elementwise", ("add", "mul", "div", "relu", "gelu", "clamp", "threshold", "exp", "sqrt", "fill", "zero"), ""),
)
OTHER = "other"
IDLE = 0.3
"""A device that rests for more than this share of the step waits for the program that feeds it."""


@dataclass(frozen=True)
class Profile:
    """What `profile_step` measured.

    Attributes:
        seconds: of one step, without the profiler.
        shares: kind of work -> share of the operators' own time, the largest first; they sum to 1.
        operators: (name, share, calls a step) of the ten operators that take longest.
        busy: share of the step's time in which operators worked: on a GPU, its kernels; on a CPU under the profiler,
            which makes all of it slower, so that it is a rough figure there.
        verdict: what takes the time and what helps, in words.
    """

    seconds: float
    shares: dict[str, float]
    operators: tuple[tuple[str, float, float], ...]
    busy: float
    verdict: str

    @property
    def waits(self) -> bool:
        """Whether the device waits for the program that feeds it."""
        return self.busy < 1 - IDLE


def profile_step(take: Callable[[], object], *, device: torch.device, steps: int = 5, warm_up: int = 2) -> Profile:
    """Takes `warm_up + 2 * steps` steps: to warm up, for the clock, and under `torch.profiler`.

    Args:
        take: one step on `device`, such as `lambda: take_step(state, batch, rule)`.
        device: whose time is asked for.
        steps: how many are averaged.
        warm_up: steps before, in which memory is allocated and algorithms are chosen.
    """
    for _ in range(warm_up):
        take()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        take()
    synchronize(device)
    seconds = (time.perf_counter() - began) / steps
    own, profiled = _own_times(take, device, steps)
    total = sum(spent for spent, _ in own.values()) or 1.0
    shares: dict[str, float] = {}
    for name, (spent, _) in own.items():
        shares[kind_of(name)] = shares.get(kind_of(name), 0.0) + spent / total
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    longest = sorted(own.items(), key=lambda item: -item[1][0])[:10]
    operators = tuple((name, spent / total, calls / steps) for name, (spent, calls) in longest)
    is_gpu = device.type == "cuda"
    busy = min(1.0, total / (steps * seconds if is_gpu else profiled))
    return Profile(seconds, shares, operators, busy, in_words(seconds, shares, busy, is_gpu=is_gpu))


def kind_of(operator: str) -> str:
    """The kind of work that an operator does, by its name: "aten::mkldnn_convolution" is convolution."""
    name = operator.lower()
    return next((kind for kind, parts, _ in KINDS if any(part in name for part in parts)), OTHER)


def in_words(seconds: float, shares: dict[str, float], busy: float, *, is_gpu: bool) -> str:
    """The verdict on a step: what takes most of it, and what helps against that."""
    first, *others = list(shares.items())[:3]
    rest = ", ".join(f"{kind} {share:.0%}" for kind, share in others)
    time_taken = f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    words = f"a step takes {time_taken}: {first[1]:.0%} is {first[0]}" + (f"; then {rest}" if rest else "")
    if busy < 1 - IDLE:
        what, it = ("The GPU works", "it") if is_gpu else ("Operators work", "them")
        return f"{words}. {what} {busy:.0%} of the time, and the rest is the program around {it}: a larger batch helps"
    helps = next((advice for kind, _, advice in KINDS if kind == first[0]), "")
    return f"{words}. What helps: {helps}" if helps else words


def _own_times(
    take: Callable[[], object], device: torch.device, steps: int
) -> tuple[dict[str, tuple[float, int]], float]:
    """Operator -> (seconds of its own, without those it calls; calls), on the device; and the seconds of all of it."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            take()
        synchronize(device)
        seconds = time.perf_counter() - began
    spent = {}
    for event in profiler.key_averages():
        micros = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        if micros > 0:
            spent[event.key] = (micros / 1e6, event.count)
    return spent, seconds
