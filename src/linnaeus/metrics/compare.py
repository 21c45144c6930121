"""Which of two models is better, judged on the same images, and whether there are enough of them to tell."""

from dataclasses import dataclass, replace
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, bootstrap_mean

CONFIDENCE, POWER = 0.95, 0.8
SEED = 2026
WORTH_TELLING = 0.01
"""A difference of one point: where none can be told, how many images this one would take is said."""


@dataclass(frozen=True)
class Comparison:
    """The second model against the first; `dataclasses.asdict` makes it JSON.

    Attributes:
        measure: "accuracy", or whatever is compared.
        difference: second less first; better is higher, unless `lower_is_better`.
        first, second: of each alone.
        p_value: of no difference: exact McNemar for answers; None where the interval alone decides.
        only_first, only_second: images that only one of them answers rightly; 0 where no answers are compared.
        needed: how many images would show a difference of one point four times out of five; None if unknown.
    """

    measure: str
    difference: Interval
    first: float
    second: float
    p_value: float | None = None
    only_first: int = 0
    only_second: int = 0
    needed: int | None = None
    lower_is_better: bool = False

    @property
    def verdict(self) -> int:
        """1 where the second is better, -1 where the first is, 0 where these images cannot tell."""
        low, high = self.difference.low, self.difference.high
        if low <= 0 <= high or (self.p_value is not None and self.p_value >= 1 - CONFIDENCE):
            return 0
        return -1 if (low > 0) == self.lower_is_better else 1


def compare_answers(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """Of two models whose answers are right or wrong.

    The p-value is McNemar's (1947), exact. The interval is that of Bonett and Price (2012), J. Educ. Behav. Stat. 37,
    479-488: Wald's, with one image added to either kind of disagreement.

    Args:
        first, second: (N,) of the same images, whether each is right.

    Raises:
        ValueError: there is no image, or the numbers differ.
    """
    from scipy.special import bdtr

    n = len(first)
    if not n or len(second) != n:
        raise ValueError(f"{n} and {len(second)} images: expected the same, and at least one")
    losses, gains = int((first & ~second).sum()), int((second & ~first).sum())
    apart = losses + gains
    p_value = min(1.0, 2 * float(bdtr(min(losses, gains), apart, 0.5))) if apart else 1.0
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    more, less = (gains + 1) / (n + 2), (losses + 1) / (n + 2)
    half = z * sqrt((more + less - (more - less) ** 2) / (n + 2))
    value = (gains - losses) / n
    low, high = max(-1.0, more - less - half), min(1.0, more - less + half)
    difference = Interval(value, min(value, low), max(value, high), n, CONFIDENCE)
    reach = z + NormalDist().inv_cdf(POWER)
    needed = ceil(reach**2 * (more + less) / WORTH_TELLING**2)
    alone = (float(first.mean()), float(second.mean()))
    return Comparison("accuracy", difference, *alone, p_value, losses, gains, needed)


def compare_losses(measure: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> Comparison:
    """Of two models with a loss an image, by the paired bootstrap: the differences are redrawn.

    Args:
        first, second: (N,) of the same images; lower is better.
    """
    difference = bootstrap_mean(second - first, seed=SEED)
    return Comparison(measure, difference, float(first.mean()), float(second.mean()), lower_is_better=True)


def in_words(comparison: Comparison, first: str, second: str) -> str:
    """The verdict in a sentence: `B is better: +1.8 points, 95% interval 0.6 to 3.0, n = 2,000`."""
    verdict, gap = comparison.verdict, comparison.difference
    if verdict == -1:  # told of the better one
        gap = replace(gap, value=-gap.value, low=-gap.high, high=-gap.low)
    is_share = not comparison.lower_is_better
    factor, digits, unit = (100, 1, " points") if is_share else (1, 3, "")
    value, low, high = (f"{factor * end:z.{digits}f}" for end in (gap.value, gap.low, gap.high))
    sign = "+" if float(value) > 0 else ""
    figures = f"{sign}{value}{unit}, {100 * gap.confidence:g}% interval {low} to {high}, n = {gap.n:,}"
    what = "" if comparison.measure == "accuracy" else f" in {comparison.measure}"
    if verdict:
        return f"{second if verdict == 1 else first} is better{what}: {figures}"
    text = f"these images cannot tell which is better{what}: {second} less {first} is {figures}"
    if comparison.needed and comparison.needed > gap.n:
        text += f"; a difference of {100 * WORTH_TELLING:g} point would take about {comparison.needed:,} images"
    return text
