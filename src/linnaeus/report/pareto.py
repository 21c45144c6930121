"""A picture of accuracy against latency: which way of running a classifier is beaten by none in both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linnaeus.metrics.intervals import Interval
from linnaeus.report.search_plots import BLUE, DARK, GREY, canvas, save

MARGIN = 1.2
"""The horizontal axis goes so many times beyond the fastest and the slowest."""


@dataclass(frozen=True)
class Dot:
    """One way of running a classifier.

    Attributes:
        seconds: to classify one image.
    """

    name: str
    seconds: float
    accuracy: Interval


def unbeaten(dots: Sequence[Dot]) -> list[Dot]:
    """Those that none is faster than without being less accurate, the fastest first."""
    front: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.seconds, -dot.accuracy.value)):
        if not front or dot.accuracy.value > front[-1].accuracy.value:
            front.append(dot)
    return front


def pareto_plot(path: Path, dots: Sequence[Dot], *, title: str, without: Sequence[str] = ()) -> None:
    """Writes an SVG with a numbered dot for each way, its interval, and a line through those that none beats.

    Args:
        dots: at least one; numbered from the fastest, and named beside the plot.
        without: ways whose accuracy is not known, to be named.
    """
    order, front = sorted(dots, key=lambda dot: dot.seconds), unbeaten(dots)
    figure, axes = canvas(9.6, max(4.0, 1.6 + 0.22 * (len(dots) + len(without))))
    axes.set_xscale("log")
    # By itself the axis would have no width where all dots, or those of the line, are as fast as each other.
    axes.set_xlim(1000 * order[0].seconds / MARGIN, 1000 * order[-1].seconds * MARGIN)
    axes.step(
        [1000 * dot.seconds for dot in front],
        [100 * dot.accuracy.value for dot in front],
        where="post",
        color=BLUE,
        linewidth=1.4,
        zorder=1,
    )
    for number, dot in enumerate(order, 1):
        place, colour = (1000 * dot.seconds, 100 * dot.accuracy.value), BLUE if dot in front else GREY
        low, high = (100 * abs(end - dot.accuracy.value) for end in (dot.accuracy.low, dot.accuracy.high))
        axes.errorbar(*place, yerr=[[low], [high]], color=colour, linewidth=0.8, capsize=2, zorder=2)
        axes.scatter(*place, s=150, color=colour, edgecolors="white", zorder=3)
        letters = "white" if dot in front else DARK
        axes.annotate(str(number), place, ha="center", va="center", size=7, color=letters, zorder=4)
    lines = [f"{n:>2}  {dot.name}: {1000 * dot.seconds:,.3g} ms, {_percent(dot)}" for n, dot in enumerate(order, 1)]
    lines += [f" -  {name}: accuracy not measured" for name in without]
    axes.text(1.03, 1.0, "\n".join(lines), transform=axes.transAxes, va="top", size=8, color=DARK, linespacing=1.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_xlabel("milliseconds for one image, median")
    axes.set_ylabel("accuracy, % (95% interval)")
    axes.set_title(title, loc="left", size=10)
    save(figure, path)


def _percent(dot: Dot) -> str:
    return f"{100 * dot.accuracy.value:.1f}% (n = {dot.accuracy.n:,})"
