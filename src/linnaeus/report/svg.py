"""Plots as SVG inside a page: their colours are those of the page, by day and night, and their text is text.

A plot is 420 units wide and its letters 12 high, so that they can be read where it fills the width of a phone. Colours
are told apart by people who see few, and are never alone: every line has its name beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

import numpy as np

from linnaeus.metrics.intervals import Interval

WIDTH, HEIGHT = 420, 260
Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A line with its name at its end.

    Attributes:
        tone: a class of the page's style: "a", "b", "c" or "quiet".
        mark: whether each point is drawn.
    """

    name: str
    points: Sequence[Point]
    tone: str = "a"
    mark: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Frame:
    """Where values lie on a plot.

    Attributes:
        x, y: least and greatest value of the axes.
        log: whether the horizontal axis is logarithmic.
        right: what is left free for names at the ends of lines.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    left: int = 46
    right: int = 16
    top: int = 26
    bottom: int = 42
    height: int = HEIGHT

    def at(self, x: float, y: float) -> Point:
        """The place of a point, in units of the plot; what is beyond an end stands at it."""
        low, high = self.x
        place = (log10(x / low) / log10(high / low)) if self.log else (x - low) / (high - low)
        rise = (y - self.y[0]) / (self.y[1] - self.y[0])
        place, rise = min(1.0, max(0.0, place)), min(1.0, max(0.0, rise))
        across = self.left + place * (WIDTH - self.left - self.right)
        return across, self.height - self.bottom - rise * (self.height - self.top - self.bottom)

    def path(self, points: Iterable[Point]) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))


def percent(value: float) -> str:
    """`94%`, or `94.5%` where that is not whole."""
    return f"{100 * value:.3g}%"


def plot(
    lines: Sequence[Line],
    frame: Frame,
    *,
    says: str,
    axes: tuple[str, str],
    forms: tuple[Format, Format],
    under: str = "",
) -> str:
    """A plot of lines.

    Args:
        says: the plot in a sentence, for people who do not see it.
        axes: what is across and what is up.
        forms: how their numbers are written.
        under: more of the same plot, drawn below the lines.
    """
    body = [grid(frame, axes, forms), under]
    for line in lines:
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        body.append(f'<polyline class="line {line.tone}" points="{frame.path(line.points)}"{dash}/>')
        body += [dot(*frame.at(*point), line.tone) for point in line.points if line.mark]
    body += _names(lines, frame)
    return svg(says, "".join(body), frame.height)


def svg(says: str, body: str, height: float = HEIGHT, width: float = WIDTH, *, most: int = 0) -> str:
    """A picture with its meaning in words; it fills the place it is given, or is `most` pixels wide."""
    style = f' style="max-width: {most}px"' if most else ""
    return (
        f'<svg class="plot"{style} viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(says)}">'
        f"<title>{escape(says)}</title>{body}</svg>"
    )


def text(x: float, y: float, content: str, *, anchor: str = "start", kind: str = "") -> str:
    """Words at a place; `anchor` is "start", "middle" or "end"."""
    about = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{about}>{escape(content)}</text>'


def dot(x: float, y: float, tone: str, radius: float = 3.2) -> str:
    """A point."""
    return f'<circle class="dot {tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def whisker(frame: Frame, x: float, interval: Interval, tone: str) -> str:
    """An upright line from the lower to the upper end."""
    across, low = frame.at(x, interval.low)
    _, high = frame.at(x, interval.high)
    return f'<line class="whisker {tone}" x1="{across:.1f}" x2="{across:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def grid(frame: Frame, axes: tuple[str, str], forms: tuple[Format, Format]) -> str:
    """The axes, their numbers and their names."""
    left, right = frame.left, WIDTH - frame.right
    base = frame.height - frame.bottom
    parts = []
    for value in ticks(*frame.y):
        _, y = frame.at(frame.x[0], value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(left - 6, y + 4, forms[1](value), anchor="end", kind="quiet"))
    for value in log_ticks(*frame.x) if frame.log else ticks(*frame.x):
        x, _ = frame.at(value, frame.y[0])
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(text(x, base + 17, forms[0](value), anchor="middle", kind="quiet"))
    parts.append(text((left + right) / 2, frame.height - 6, axes[0], anchor="middle"))
    parts.append(text(4, 10, axes[1]))
    return "".join(parts)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    raw = (high - low) / wanted
    unit = 10 ** floor(log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw * 0.999)
    first, last = ceil(low / step - 1e-6), floor(high / step + 1e-6)
    return [round(number * step, 10) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`, with 2 and 5 times them where there is room."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    factors = (1, 2, 5) if log10(high / low) < 2.2 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


def around(values: Iterable[float], *, within: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float]:
    """Ends of an axis that hold all values, with some room, and do not leave `within`."""
    numbers = [value for value in values if np.isfinite(value)] or [0.0]
    low, high = min(numbers), max(numbers)
    room = 0.06 * (high - low) or max(0.01, abs(high) * 0.05)
    low, high = max(within[0], low - room), min(within[1], high + room)
    return (low, high) if high - low > 1e-9 else (low - room, high)


def _names(lines: Sequence[Line], frame: Frame) -> list[str]:
    """The names above the ends of the lines, moved apart where they would touch."""
    ends = sorted((frame.at(*line.points[-1])[1], n) for n, line in enumerate(lines) if line.points and line.name)
    parts, above = [], -100.0
    for y, number in ends:
        line = lines[number]
        x, _ = frame.at(*line.points[-1])
        place = max(y - 6, above + 14)
        above = place
        parts.append(text(min(x, WIDTH - frame.right), place, line.name, anchor="end", kind=f"name {line.tone}"))
    return parts


def forest(
    rows: Sequence[tuple[str, Interval, str]],
    *,
    says: str,
    reference: float,
    name: str = "all",
    form: Format = percent,
    within: tuple[float, float] = (0, 1),
) -> str:
    """One row a value, with its interval as a line across, beside a reference drawn through all rows.

    Args:
        rows: (name, interval, tone).
        reference: such as the value of all images, and `name` what it is called.
        within: what the values cannot leave.
    """
    ends = [end for _, interval, _ in rows for end in (interval.low, interval.high)]
    label, row = 168, 22
    frame = Frame(around([*ends, reference], within=within), (0, 1), left=label, right=52, height=row * len(rows) + 34)
    base = frame.height - 26
    across, _ = frame.at(reference, 0)
    parts = [f'<line class="whisker quiet" x1="{across:.1f}" x2="{across:.1f}" y1="4" y2="{base}"/>']
    parts.append(text(across, frame.height - 10, f"{name}: {form(reference)}", anchor="middle", kind="quiet"))
    for number, (own, interval, tone) in enumerate(rows):
        y = number * row + 16
        low, middle, high = (frame.at(value, 0)[0] for value in (interval.low, interval.value, interval.high))
        parts.append(text(label - 8, y + 4, shorten(own, 25), anchor="end"))
        parts.append(f'<line class="whisker {tone}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(dot(middle, y, tone))
        parts.append(text(WIDTH - 2, y + 4, form(interval.value), anchor="end", kind="quiet"))
    return svg(says, "".join(parts), frame.height)


def shorten(name: str, most: int) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
