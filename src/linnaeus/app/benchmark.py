"""How fast a finished model answers on this machine, by each way of running it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from linnaeus.app.progress import Display
from linnaeus.core.device import autocast, describe, pick
from linnaeus.deploy.benchmark import ROUNDS, Answer, Start, Timing, measure_start, noise, time_in_turns
from linnaeus.deploy.bundle import load_bundle
from linnaeus.engine.autotune import Way, arrange, candidates
from linnaeus.engine.guard import FAILURES, compile_in_place, first_line
from linnaeus.explain.memory import MIB, peak

SIZES = (1, 8, 32)
"""Images at once."""
TOLERANCE = 0.05
"""A way with a probability that differs by more from that of the plainest way does not win."""
BUSY = 0.5
"""Processes that ran on average in the last minute, from which on the machine is said to have been busy."""


@dataclass(frozen=True)
class Measured:
    """One way of running a model.

    Attributes:
        difference: the largest, of any probability to that of the plainest way, on the images that were timed.
    """

    timing: Timing
    start: Start
    difference: float


@dataclass(frozen=True)
class Benchmark:
    """All ways beside each other, the plainest first.

    Attributes:
        device: in words.
        size: of the file of weights, in bytes.
        load: processes that ran on average in the minute before.
        failed: way -> why it could not be measured.
    """

    folder: Path
    model: str
    device: str
    parameters: int
    size: int
    load: float
    ways: Mapping[str, Measured]
    failed: Mapping[str, str]

    def fastest(self, size: int) -> str:
        """The way that is faster than the plainest in every round, most of all of these; or else the plainest."""
        plain, *others = self.ways
        speedups = {name: self.ways[name].timing.speedups(self.ways[plain].timing, size) for name in others}
        sure = [n for n in others if min(speedups[n]) > 1 and self.ways[n].difference <= TOLERANCE]
        return max(sure, key=lambda name: self.ways[name].timing.throughput(size), default=plain)

    def table(self) -> Table:
        """A row a way."""
        title = f"{self.model}, {self.parameters / 1e6:,.2f} M parameters, {self.size / MIB:,.2f} MiB, on {self.device}"
        table = Table(title=title, title_justify="left", caption=_CAPTION, caption_justify="left")
        table.add_column("way")
        percentiles = (f"p{round(100 * share)} ms" for share in _SHARES)
        rates = (f"{size} at once, images/s" for size in SIZES)
        for column in (*percentiles, *rates, "start s", "peak MiB", "differs by"):
            table.add_column(column, justify="right")
        for name, way in self.ways.items():
            latency = (f"{1000 * way.timing.latency(share):,.2f}" for share in _SHARES)
            rate = (f"{way.timing.throughput(size):,.0f}" for size in SIZES)
            own = (f"{way.start.seconds:.1f}", f"{way.start.peak / MIB:,.0f}" if way.start.peak else "-")
            table.add_row(name, *latency, *rate, *own, f"{way.difference:.4f}")
        return table

    def in_words(self) -> str:
        """The winners, and what a person should know of the figures."""
        lines = [f"{name}: not measured, {reason}" for name, reason in self.failed.items()]
        lines += [self._winner(1, "On one image"), self._winner(SIZES[-1], f"On {SIZES[-1]} images at once")]
        if self.load > BUSY:
            lines.append(f"The machine was busy before (load {self.load:.1f}): alone it is faster than this.")
        return "\n".join(lines)

    def _winner(self, size: int, where: str) -> str:
        best, plain = self.fastest(size), next(iter(self.ways))
        timing = self.ways[best].timing
        rate = f"{1000 * timing.latency(0.5):,.2f} ms" if size == 1 else f"{timing.throughput(size):,.0f} images/s"
        if best == plain:
            return f"{where} nothing beats {plain} in every round: {rate}."
        speedups = sorted(timing.speedups(self.ways[plain].timing, size))
        between = f"{speedups[0]:.2f} to {speedups[-1]:.2f} in {ROUNDS} rounds"
        return f"{where} {best} is the fastest: {rate}, {speedups[ROUNDS // 2]:.2f} times {plain} ({between})."

    def to_json(self) -> dict[str, Any]:
        """All figures for machines."""
        return {
            **{name: getattr(self, name) for name in ("model", "device", "parameters", "load")},
            "folder": str(self.folder),
            "torch": torch.__version__,
            "weights_bytes": self.size,
            "ways": {name: _figures(way) for name, way in self.ways.items()},
            "failed": dict(self.failed),
            "fastest": {str(size): self.fastest(size) for size in SIZES},
        }


_SHARES = (0.5, 0.9, 0.99)
_CAPTION = (
    "p50, p90, p99: of one image, from prepared pixels to probabilities. start: of a new process, to its first answer. "
    f"peak: of that process, with {SIZES[-1]} images at once. differs by: the largest change of a probability."
)


def _figures(way: Measured) -> dict[str, Any]:
    timing, start = way.timing, way.start
    return {
        "latency_ms": {f"p{round(100 * share)}": round(1000 * timing.latency(share), 4) for share in _SHARES},
        "calls": {str(size): sum(map(len, timing.calls[size])) for size in SIZES},
        "images_per_second": {str(size): round(timing.throughput(size), 2) for size in SIZES},
        "start_seconds": round(start.seconds, 3),
        "peak_bytes": start.peak,
        "largest_difference": round(way.difference, 6),
    }


def benchmark(folder: Path, *, device: str, display: Display) -> Benchmark:
    """Times a model on images of random pixels: eager, channels last, in bf16 where the machine has it, compiled.

    Args:
        folder: of a finished run, or of a model.

    Raises:
        RequestError: if the folder holds no finished model.
        EnvironmentFault: if it is damaged, or the plainest way does not run.
    """
    where, load = pick(device), os.getloadavg()[0]
    bundle = load_bundle(folder)
    side = bundle.preprocess.geometry.image_size
    shape = (SIZES[-1], bundle.preprocess.channels, side, side)
    answers, failed = _open_all(folder, where, noise(shape), display)
    parts = ROUNDS * len(answers) * len(SIZES)
    with display.bar("measuring", parts, unit="parts") as advance:
        timings = time_in_turns(answers, noise(shape), SIZES, advance=advance)
    starts = {}
    with display.bar("starting", len(answers), unit="processes") as advance:
        for name, way in _ways(where).items():
            if name in answers:
                starts[name] = measure_start(partial(open_way, folder, where, way), shape, partial(peak, where))
                advance(1)
    plain, *_ = (answer(noise(shape)) for answer in answers.values())
    measured = {
        name: Measured(timings[name], starts[name], float((answer(noise(shape)) - plain).abs().max()))
        for name, answer in answers.items()
    }
    weights = folder / "model" / "model.safetensors"
    weights = weights if weights.is_file() else folder / "model.safetensors"
    return Benchmark(
        folder=folder,
        model=bundle.about["architecture"]["name"],
        device=describe(where),
        parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        size=weights.stat().st_size,
        load=load,
        ways=measured,
        failed=failed,
    )


def _ways(device: torch.device) -> dict[str, Way]:
    """Those that the machine has, the plainest first; compiled is the last of them, since compiling takes long."""
    ways = candidates(device, None, None)
    return {str(way): way for way in (*ways, ways[-1]._replace(compiled=True))}


def _open_all(
    folder: Path, device: torch.device, images: Tensor, display: Display
) -> tuple[dict[str, Answer], dict[str, str]]:
    """The ways that run, each loaded and called once with each number of images; and why others do not."""
    answers: dict[str, Answer] = {}
    failed: dict[str, str] = {}
    for name, way in _ways(device).items():
        if way.compiled:
            display.say("compiling; this may take some minutes")
        try:
            answer = open_way(folder, device, way)
            for size in SIZES:
                answer(images[:size])
        except FAILURES as error:
            if not answers:  # without the plainest there is nothing to compare with
                raise
            failed[name] = first_line(error)
        else:
            answers[name] = answer
    return answers, failed


def open_way(folder: Path, device: torch.device, way: Way) -> Answer:
    """A model as it is run by one way."""
    bundle = load_bundle(folder).to(device)
    arrange(bundle.model, channels_last=way.channels_last)
    if way.compiled:
        compile_in_place(bundle.model)

    def answer(images: Tensor) -> Tensor:
        with autocast(device, way.precision):
            return bundle.probabilities(images)

    return answer
