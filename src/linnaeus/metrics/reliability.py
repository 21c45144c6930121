"""Whether images that are said to be right with 80% are right in 80% of all cases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, redraw, wilson

MOST_BINS, IMAGES_A_BIN = 15, 50
SEED, ROUNDS, FEWEST_ROUNDS = 2026, 1000, 200
TAIL = 0.01
"""Left out on either side: with 0.025 the intervals covered 78 to 95% in simulation at 95%."""
MAX_WORK = 10**8
"""Images x rounds of a bootstrap."""


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence: a point of the reliability diagram.

    Attributes:
        confidence: the mean probability of the answers.
        accuracy: how many of them are right.
    """

    confidence: float
    accuracy: Interval


def reliability(confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> list[Bin]:
    """Up to 15 bins of equally many answers, the least confident first; fewer where a bin had less than 50.

    Args:
        confidences: the probability of each answer, in [0, 1]; of any shape.
        right: whether it is right; of the same shape.
    """
    flat, hits = confidences.ravel().astype(np.float64), right.ravel()
    bins = _bins(flat)
    found = []
    for number in range(bins.max() + 1):
        own = bins == number
        found.append(Bin(float(flat[own].mean()), wilson(int(hits[own].sum()), int(own.sum()))))
    return found


def calibration_error(confidences: NDArray[np.floating], right: NDArray[np.bool_], *, seed: int = SEED) -> Interval:
    """The expected calibration error (Naeini et al. 2015): the mean distance of confidence and accuracy in those bins.

    Noise in a bin is a distance too, so that the plain figure is above 0 for perfect probabilities. How much it adds is
    found by redrawing the images, and depends on the true distances: least where they are as seen, most where they are
    those shrunk by their noise (James and Stein 1961, positive part). The value lies midway; the ends are the outer
    ones of both.

    Args:
        confidences: (N, M) probabilities in [0, 1]: M answers for each of N images, which are drawn as a whole.
        right: (N, M), whether an answer is right.
    """
    n, answers = confidences.shape
    bins = _bins(confidences.ravel().astype(np.float64)).reshape(n, answers)
    gaps = np.zeros((bins.max() + 1, n))
    rows = np.repeat(np.arange(n), answers)
    np.add.at(gaps, (bins.ravel(), rows), (right.astype(np.float64) - confidences).ravel())

    gaps /= n * answers
    seen = gaps.sum(1)
    drawn_noise = n * gaps.var(1)  # of a bin's sum; without errors it is next to nothing, and then what is said counts
    said = np.bincount(bins.ravel(), (confidences * (1 - confidences)).ravel()) / (n * answers) ** 2
    noise = np.maximum(np.maximum(drawn_noise, said), 1e-18)
    wider = np.sqrt(noise / np.maximum(drawn_noise, 1e-18))[:, None]
    strength = float((seen**2 / noise).sum())
    shrunk = seen * max(0.0, 1 - len(seen) / strength) if strength > 0 else seen

    plain = float(np.abs(seen).sum())
    rounds = int(np.clip(MAX_WORK // n, FEWEST_ROUNDS, ROUNDS))

    def without_noise(true: NDArray[np.float64]) -> NDArray[np.float64]:
        """(3,) the error less what noise adds where these are the bins' true distances: low end, middle, high end."""

        def distance(drawn: NDArray[np.int32]) -> NDArray[np.float64]:
            value: NDArray[np.float64] = np.abs(true[:, None] + wider * (gaps @ drawn - seen[:, None])).sum(0)
            return value

        added = redraw(distance, n, seed=seed, rounds=rounds) - np.abs(true).sum()
        # Distances are never negative, which cuts the noise off on one side: the longer side is taken for both.
        reach = np.abs(np.quantile(added, [TAIL, 1 - TAIL]) - added.mean()).max()
        ends: NDArray[np.float64] = plain - added.mean() + np.array([-reach, 0.0, reach])
        return ends

    few, many = without_noise(seen), without_noise(shrunk)
    low, middle, high = float(min(few[0], many[0])), float(few[1] + many[1]) / 2, float(max(few[2], many[2]))
    value = max(0.0, middle)
    return Interval(value, max(0.0, min(low, value)), min(1.0, max(high, value)), n)


def _bins(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    """(N,) -> (N,) numbers from 0 on without a gap; equal confidences share a bin."""
    number = int(np.clip(len(confidences) // IMAGES_A_BIN, 1, MOST_BINS))
    edges = np.quantile(confidences, np.arange(1, number) / number)
    _, bins = np.unique(np.searchsorted(edges, confidences, "right"), return_inverse=True)
    return bins
