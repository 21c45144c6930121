"""When to say "not sure": accuracy among the images that get an answer, and thresholds that promise one."""

from dataclasses import dataclass
from math import ceil, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.metrics.intervals import Interval, wilson

RISK = 0.05
"""The chance that a promise is broken: that the held-out images were unusually easy."""
TRIES = 10


@dataclass(frozen=True)
class Promise:
    """From which confidence on the answers are as often right as wished.

    Attributes:
        min_accuracy: the promised accuracy among the images that get an answer.
        risk: the chance that held-out images of this number mislead, so that the promise does not hold.
        threshold: an answer is given where the confidence is above it.
        coverage: the part of the held-out images that gets an answer.
        accuracy: of these.
    """

    min_accuracy: float
    risk: float
    threshold: float
    coverage: Interval
    accuracy: Interval


def confidence(probabilities: Tensor, thresholds: Tensor | None) -> Tensor:
    """(N, K) -> (N,) float64: how probable it is that an answer is right in every respect, were it calibrated.

    Args:
        probabilities: of classes.
        thresholds: (K,) from which on an image is said to have a class; None where it has exactly one. Of several, the
            probabilities of all decisions are multiplied, as if they were independent.
    """
    wide = probabilities.double()
    if thresholds is None:
        return wide.amax(1)
    return torch.where(wide >= thresholds, wide, 1 - wide).prod(1)


def promise(
    confidences: NDArray[np.floating], right: NDArray[np.bool_], min_accuracy: float, *, risk: float = RISK
) -> Promise | None:
    """The threshold that answers most images and still promises an accuracy; None where none does.

    As selective guaranteed risk (Geifman and El-Yaniv 2017, arXiv:1705.08500): a threshold passes if the exact
    binomial lower bound (Clopper and Pearson) on the accuracy above it is high enough. Tried are `TRIES` thresholds,
    which answer numbers of images from the fewest that can pass up to all, each at the level risk / TRIES: these depend
    on the number of images alone. With probability 1 - risk the promise holds for new images like these.

    Args:
        confidences: (N,) of held-out images.
        right: (N,), whether the answer would be right.
        min_accuracy: in (0, 1).

    Raises:
        ValueError: there is no image, or min_accuracy is outside (0, 1).
    """
    n = len(confidences)
    if not n or not 0 < min_accuracy < 1:
        raise ValueError(f"min_accuracy {min_accuracy} of {n} images: expected 0 to 1, of at least one")
    order = np.argsort(-confidences, kind="stable")
    ranked, hits = confidences[order].astype(np.float64), np.cumsum(right[order])
    fewest = images_needed(min_accuracy, risk=risk)
    for wished in sorted({round(m) for m in np.linspace(fewest, n, TRIES) if fewest <= n}, reverse=True):
        # Strictly above the next image's, so that those above are a sample of all such images. -1 answers all.
        level = -1.0 if wished == n else float(ranked[wished])
        answered = int(np.searchsorted(-ranked, -level, "left"))
        if answered and _lower_bound(int(hits[answered - 1]), answered, risk / TRIES) >= min_accuracy:
            accuracy = wilson(int(hits[answered - 1]), answered)
            return Promise(min_accuracy, risk, level, wilson(answered, n), accuracy)
    return None


def images_needed(min_accuracy: float, *, risk: float = RISK) -> int:
    """How many held-out images, all answered rightly, a promise takes at least."""
    return ceil(log(risk / TRIES) / log(min_accuracy))


def highest_promise(confidences: NDArray[np.floating], right: NDArray[np.bool_]) -> float | None:
    """The highest accuracy, in steps of 0.1 to 1 point, that can be promised; None where it is below 50%."""
    ladder = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, *(p / 100 for p in range(86, 100)), 0.995, 0.999]
    return next((p for p in reversed(ladder) if promise(confidences, right, p) is not None), None)


@dataclass(frozen=True)
class RiskCoverage:
    """What refusing the least confident answers gains.

    Attributes:
        coverage: parts of the images that get an answer, rising to 1.
        accuracy: among these.
        area: under the curve of the errors among the answered over all coverages (AURC, Geifman et al. 2019,
            arXiv:1805.08206); lower is better.
    """

    coverage: list[float]
    accuracy: list[float]
    area: float


def risk_coverage(confidences: NDArray[np.floating], right: NDArray[np.bool_], *, points: int = 50) -> RiskCoverage:
    """The curve at about so many points. Images of equal confidence are answered together.

    Args:
        confidences, right: (N,).
    """
    order = np.argsort(-confidences, kind="stable")
    ranked, n = confidences[order], len(confidences)
    last = np.searchsorted(-ranked, -ranked, "right")  # how many are answered if this one is
    accuracy = np.cumsum(right[order])[last - 1] / last
    shown = np.unique(last[np.linspace(0, n - 1, min(points, n)).astype(np.int64)])
    return RiskCoverage((shown / n).tolist(), accuracy[shown - 1].tolist(), float(np.mean(1 - accuracy)))


def _lower_bound(hits: int, n: int, risk: float) -> float:
    """The accuracy at which so many hits or more would be as rare as `risk`."""
    from scipy.special import betaincinv

    return float(betaincinv(hits, n - hits + 1, risk)) if hits else 0.0
