"""What `benchmark` found: figures side by side, the winners in words, and what is written down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from linnaeus.app.contenders import Contender
from linnaeus.app.fastest import remember
from linnaeus.deploy.benchmark import ROUNDS, Start, Timing
from linnaeus.report.pareto import Dot, pareto_plot

SIZES = (1, 8, 32)
"""Images at once."""
ONE, MANY = SIZES[0], SIZES[-1]
TOLERANCE = 0.05
"""A way of the network with a probability that differs by more from that of the plainest way does not win. What was
exported may differ by more on random pixels: it was judged on real images."""
BUSY = 0.5
"""Processes that ran on average in the last minute, from which on the machine is said to have been busy."""
PLOT = "benchmark.svg"


@dataclass(frozen=True)
class Measured:
    """One way of running a classifier.

    Attributes:
        difference: the largest, of any probability to that of the plainest way of the network, on the images that were
            timed; None where that was not timed.
    """

    contender: Contender
    timing: Timing
    start: Start
    difference: float | None

    @property
    def may_win(self) -> bool:
        """Whether its answers are good enough."""
        is_near = self.difference is None or self.difference <= TOLERANCE
        return self.contender.may_win and (is_near or self.contender.artefact is not None)


@dataclass(frozen=True)
class Rated:
    """All ways of one classifier, the plainest first.

    Attributes:
        folder: of the run or the model, or of an artefact.
        title: the network in words.
        is_network: whether the run or the model was named, rather than artefacts alone.
        failed: way -> why it could not be measured.
    """

    folder: Path
    title: str
    is_network: bool
    ways: Mapping[str, Measured]
    failed: Mapping[str, str]

    def fastest(self, size: int) -> str:
        """The way that is faster than the plainest in every round, most of all of these; or else the plainest."""
        plain, *others = self.ways
        sure = [name for name in others if self.ways[name].may_win and min(self.speedups(name, size)) > 1]
        return max(sure, key=lambda name: self.ways[name].timing.throughput(size), default=plain)

    def speedups(self, name: str, size: int) -> list[float]:
        """How many times as fast as the plainest a way was in each round."""
        plain = next(iter(self.ways.values()))
        return self.ways[name].timing.speedups(plain.timing, size)

    def winner(self, size: int) -> str:
        """The fastest in a sentence."""
        best, plain = self.fastest(size), next(iter(self.ways))
        timing = self.ways[best].timing
        where = "On one image" if size == 1 else f"On {size} images at once"
        rate = f"{1000 * timing.latency(0.5):,.2f} ms" if size == 1 else f"{timing.throughput(size):,.0f} images/s"
        if len(self.ways) == 1:
            return f"{where} {plain} takes {rate}." if size == 1 else f"{where} {plain} does {rate}."
        if best == plain:
            return f"{where} nothing beats {plain} in every round: {rate}."
        speedups = self.speedups(best, size)
        between = f"{min(speedups):.2f} to {max(speedups):.2f} in {ROUNDS} rounds"
        return f"{where} {best} is the fastest: {rate}, {median(speedups):.2f} times {plain} ({between})."

    def to_json(self) -> dict[str, Any]:
        """All figures for machines; ways by their names within the run."""
        return {
            "model": self.title,
            "images_at_once": list(SIZES),
            "ways": {way.contender.way: self._figures(name) for name, way in self.ways.items()},
            "failed": {name.rpartition("/")[2]: reason for name, reason in self.failed.items()},
            "fastest": {"one": self._named(ONE), "many": self._named(MANY)},
        }

    def _named(self, size: int) -> dict[str, Any]:
        best = self.ways[self.fastest(size)].contender
        return {"way": best.way, "artefact": best.artefact.name if best.artefact else None}

    def _figures(self, name: str) -> dict[str, Any]:
        way = self.ways[name]
        timing, start, accuracy = way.timing, way.start, way.contender.accuracy
        return {
            "latency_ms": {f"p{round(100 * share)}": round(1000 * timing.latency(share), 4) for share in _SHARES},
            "calls": {str(size): sum(map(len, timing.calls[size])) for size in SIZES},
            "images_per_second": {str(size): round(timing.throughput(size), 2) for size in SIZES},
            "times_as_fast": {
                str(size): dict(zip(("low", "median", "high"), _spread(self.speedups(name, size)), strict=True))
                for size in SIZES
            },
            "start_seconds": round(start.seconds, 3),
            "peak_bytes": start.peak,
            "bytes": way.contender.size,
            "accuracy": {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high, "n": accuracy.n}
            if accuracy
            else None,
            "largest_difference": None if way.difference is None else round(way.difference, 6),
        }


@dataclass(frozen=True)
class Benchmark:
    """Classifiers beside each other, timed in the same rounds.

    Attributes:
        device: of the networks, in words.
        load: processes that ran on average in the minute before.
    """

    device: str
    load: float
    groups: tuple[Rated, ...]

    def tables(self) -> list[Table]:
        """How fast each way is, and what it takes; two tables, since one would be wider than a terminal."""
        titles = "\n".join(group.title for group in self.groups)
        speed = _table(f"{titles}, on {self.device}", _SPEED, _CAPTION)
        needs = _table("", _NEEDS, _CAPTION_NEEDS)
        for group in self.groups:
            best = {group.fastest(size) for size in (ONE, MANY)}
            for name in group.ways:
                shown = f"[green]{name}[/]" if name in best else name
                speed.add_row(shown, *_speed(group, name))
                needs.add_row(shown, *_needs(group.ways[name]))
            speed.add_section()
            needs.add_section()
        return [speed, needs]

    def in_words(self) -> str:
        """The winners, and what a person should know of the figures."""
        lines = []
        for group in self.groups:
            lines += [f"{name}: not measured, {reason}" for name, reason in group.failed.items()]
            lines += [group.winner(size) for size in (ONE, MANY)]
        if self.load > BUSY:
            lines.append(f"The machine was busy before (load {self.load:.1f}): alone it is faster than this.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All figures for machines, a part for each classifier."""
        return {"device": self.device, "load": self.load, "benchmarks": [self._part(group) for group in self.groups]}

    def remember(self) -> list[Path]:
        """Writes `benchmark.json` of each run or model, and in the first of them a plot of all; gives the paths."""
        networks = [group for group in self.groups if group.is_network]
        written = [
            remember(group.folder, {"made": datetime.now(UTC).isoformat(timespec="seconds"), **self._part(group)})
            for group in networks
        ]
        ways = {name: way for group in self.groups for name, way in group.ways.items()}
        dots = [
            Dot(name, way.timing.latency(0.5), way.contender.accuracy)
            for name, way in ways.items()
            if way.contender.accuracy
        ]
        if networks and dots:
            path = networks[0].folder / PLOT
            known = {dot.name for dot in dots}
            title = f"{', '.join(group.title for group in self.groups)}, on {self.device}"
            pareto_plot(path, dots, title=title, without=[name for name in ways if name not in known])
            written.append(path)
        return written

    def _part(self, group: Rated) -> dict[str, Any]:
        return {"folder": str(group.folder), "device": self.device, "load": self.load, **group.to_json()}


_SHARES = (0.5, 0.9, 0.99)
_SPEED = ("p50\nms", "p90\nms", "p99\nms", "gain\n1", *(f"images/s\n{size}" for size in SIZES[1:]), f"gain\n{MANY}")
_NEEDS = ("disk\nMB", "memory\nMB", "start\ns", "accuracy\n%", "interval\n95%", "n", "differs\nby")
_CAPTION = (
    f"p50, p90, p99: of one image, from prepared pixels to probabilities. images/s: {SIZES[1]} and {MANY} at once. "
    f"gain: times as fast as the first way of the same network, on 1 image and on {MANY}, median of {ROUNDS} rounds. "
    "nhwc: channels last in memory. Green: the winners."
)
_CAPTION_NEEDS = (
    f"memory: of a new process of Linnaeus, at most, with {MANY} images at once; start: until its first answer. "
    "accuracy: of a network as its training found it, of an artefact by the gate. differs by: the largest change of a "
    "probability, on random pixels."
)


def _table(title: str, columns: tuple[str, ...], caption: str) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("way", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _spread(speedups: list[float]) -> tuple[float, float, float]:
    return round(min(speedups), 4), round(median(speedups), 4), round(max(speedups), 4)


def _speed(group: Rated, name: str) -> Iterator[str]:
    timing = group.ways[name].timing
    yield from (f"{1000 * timing.latency(share):,.2f}" for share in _SHARES)
    yield f"{median(group.speedups(name, ONE)):.2f}"
    yield from (f"{timing.throughput(size):,.0f}" for size in SIZES[1:])
    yield f"{median(group.speedups(name, MANY)):.2f}"


def _needs(way: Measured) -> Iterator[str]:
    accuracy = way.contender.accuracy
    yield f"{way.contender.size / 1e6:,.2f}"
    yield f"{way.start.peak / 1e6:,.0f}" if way.start.peak else "-"
    yield f"{way.start.seconds:.1f}"
    yield f"{100 * accuracy.value:.1f}" if accuracy else "-"
    yield f"{100 * accuracy.low:.1f}-{100 * accuracy.high:.1f}" if accuracy else "-"
    yield f"{accuracy.n:,}" if accuracy else "-"
    yield "-" if way.difference is None else f"{way.difference:.4f}"
