"""How far apart two proportions are, where only their counts are known and not which images are behind them."""

from math import hypot

from linnaeus.metrics.intervals import Interval, wilson


def newcombe(first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95) -> Interval:
    """The second proportion less the first, with the hybrid score interval of Newcombe (1998), Stat. Med. 17, 873-890.

    It is method 10 there, for two independent samples. Of two models on the same images, which are mostly right and
    wrong together, it is wider than it need be (`metrics/compare.py` has the paired one, of answers image by image).

    Args:
        first, second: (successes, n) each.
        confidence: in (0, 1).

    Returns:
        The difference in [-1, 1]; its n is the smaller one.

    Raises:
        ValueError: as `wilson` does.
    """
    a, b = (wilson(successes, n, confidence) for successes, n in (first, second))
    value = b.value - a.value
    low = value - hypot(b.value - b.low, a.high - a.value)
    high = value + hypot(b.high - b.value, a.value - a.low)
    return Interval(value, low, high, min(a.n, b.n), confidence)
