"""Figures in the words of a person."""

from linnaeus.metrics.intervals import Interval

FEW = 1000
"""Of fewer images, a tenth of a point is noise and is not told in a sentence."""


def of_hundred(interval: Interval) -> str:
    """`94 of 100`: a part of all images. What is not all is never rounded to all, nor what is not nothing to none."""
    return f"{number(interval.value, interval.n)} of 100"


def between(interval: Interval) -> str:
    """`91 to 96, n = 153`."""
    return f"{number(interval.low, interval.n)} to {number(interval.high, interval.n)}, n = {interval.n:,}"


def number(share: float, n: int) -> str:
    """A share of n images as a number of a hundred."""
    percent = 100 * share
    text = f"{percent:.0f}" if n < FEW else f"{percent:.1f}"
    digits = 1
    while share not in (0.0, 1.0) and float(text) in (0.0, 100.0) and digits < 4:
        text = f"{percent:.{digits}f}"
        digits += 1
    return text


def points(interval: Interval) -> str:
    """`+6.5 points (95% interval 2.1 to 10.9)`: a difference of shares."""
    value, low, high = (f"{100 * end:+z.1f}" for end in (interval.value, interval.low, interval.high))
    return f"{value} points ({100 * interval.confidence:g}% interval {low} to {high})"


def exact(interval: Interval) -> str:
    """`94.1% (89.2 to 96.9)`: for tables, whose column says of how many."""
    return f"{interval.value:.1%} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def whole_percent(share: float) -> str:
    """`62%`: what is not all is never rounded to all, nor what is not nothing to none."""
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
