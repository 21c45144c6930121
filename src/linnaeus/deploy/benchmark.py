"""How fast a classifier answers on this machine: ways of running it beside each other, and what each needs to start.

A way is any callable like `Runtime.probabilities`: it takes (B, C, S, S) uint8, returns probabilities on the CPU, and
is done when it returns. So a network in memory and an exported artefact are measured alike.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from linnaeus.core.errors import EnvironmentFault

Answer = Callable[[Tensor], Tensor]
"""(B, C, S, S) uint8 -> (B, K) probabilities on the CPU."""
Shape = tuple[int, int, int, int]

ROUNDS = 7
ROUND_SECONDS = 0.2
"""How long a way is called in each round, for each number of images at once; some calls at least are made."""
LEAST_CALLS = 15
"""Calls on one image in a round: with all rounds more than a hundred, of which the 99th percentile is one."""
WARM_UP = 3
LEAVE_SECONDS = 10
"""How long a process that was measured may take to end by itself."""
SAID = "said.txt"
"""What a process that is started writes to its terminal."""


@dataclass(frozen=True)
class Timing:
    """How long calls took.

    Attributes:
        calls: images at once -> round -> seconds of each call.
    """

    calls: Mapping[int, Sequence[Sequence[float]]]

    def latency(self, share: float) -> float:
        """Seconds within which this share of the calls on one image was answered."""
        return float(np.quantile(np.concatenate(self.calls[1]), share, method="inverted_cdf"))

    def throughput(self, size: int) -> float:
        """Images a second, `size` at once, by the median of all calls."""
        return size / median(chain.from_iterable(self.calls[size]))

    def speedups(self, other: "Timing", size: int) -> list[float]:
        """How many times as fast as another way it was in each round, by the medians of the round."""
        pairs = zip(self.calls[size], other.calls[size], strict=True)
        return [median(theirs) / median(own) for own, theirs in pairs]


@dataclass(frozen=True)
class Start:
    """What a process needs that has just begun.

    Attributes:
        seconds: from its beginning to the first answer, to one image.
        peak: bytes of memory at most, with a call on many images.
    """

    seconds: float
    peak: int


def noise(shape: Shape) -> Tensor:
    """Images of random pixels, uint8, always the same: how long a network takes does not depend on what they show."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def time_in_turns(
    answers: Mapping[str, Answer], images: Tensor, sizes: Sequence[int], *, advance: Callable[[int], None]
) -> dict[str, Timing]:
    """Times all ways in rounds, each in both orders in turn, so that what else the machine does meets them alike.

    Args:
        answers: name -> way.
        images: (N, C, S, S) uint8, as many as the largest size.
        sizes: images at once; 1 is one of them.
        advance: told of each of the `ROUNDS * len(answers) * len(sizes)` parts that is done.
    """
    calls: dict[str, dict[int, list[list[float]]]] = {name: {size: [] for size in sizes} for name in answers}
    for answer in answers.values():
        for size in sizes:
            for _ in range(WARM_UP):
                answer(images[:size])
    for number in range(ROUNDS):
        for size in sizes:
            for name in list(answers)[:: -1 if number % 2 else 1]:
                calls[name][size].append(_call(answers[name], images[:size], LEAST_CALLS if size == 1 else 1))
                advance(1)
    return {name: Timing(of) for name, of in calls.items()}


def _call(answer: Answer, images: Tensor, least: int) -> list[float]:
    """Seconds of each call, after one that finds the caches as another way left them."""
    answer(images)
    seconds: list[float] = []
    while len(seconds) < least or sum(seconds) < ROUND_SECONDS:
        began = time.perf_counter()
        answer(images)
        seconds.append(time.perf_counter() - began)
    return seconds


def measure_start(make: Callable[[], Answer], shape: Shape, peak: Callable[[], int]) -> Start:
    """Starts a way in a new process, which keeps no compiled code from before.

    Args:
        make: loads the way; can be pickled, as the next.
        shape: of the images of the second call; the first is on one.
        peak: bytes at the peak of the process that calls it.

    Raises:
        EnvironmentFault: if the process ends before it has answered.
    """
    context = get_context("spawn")
    with TemporaryDirectory(prefix="linnaeus-start-", ignore_cleanup_errors=True) as scratch:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_begin, args=(theirs, Path(scratch), make, shape, peak), daemon=True)
        began = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is answered here, and only once
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        try:
            ours.recv()
            found = Start(time.monotonic() - began, ours.recv())
            process.join(LEAVE_SECONDS)  # a compiler puts away what Python would miss, and tell the user of
            return found
        except EOFError:
            process.join()
            reason = f"a process that was started to be measured ended with {process.exitcode}"
            raise EnvironmentFault(f"{reason}{_last_words(Path(scratch))}") from None
        finally:
            process.kill()
            process.join()


def _last_words(scratch: Path) -> str:
    """The last line that a process wrote, in which an error says what it is."""
    path = scratch / SAID
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


def _begin(pipe: Connection, scratch: Path, make: Callable[[], Answer], shape: Shape, peak: Callable[[], int]) -> None:
    with (scratch / SAID).open("wb") as said:
        for stream in (1, 2):  # what compilers and runtimes say is not for the user, unless it fails
            os.dup2(said.fileno(), stream)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "compiled")
    answer, images = make(), noise(shape)
    answer(images[:1])
    pipe.send(None)
    answer(images)
    pipe.send(peak())
