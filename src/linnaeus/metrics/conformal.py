"""Sets of classes that hold the true one in a promised share of all images (split conformal prediction)."""

from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, bootstrap_mean, wilson

SEED = 2026


class Sets(NamedTuple):
    """How sets do on images that they were not chosen on.

    Attributes:
        coverage: how many hold the truth.
        size: the mean number of classes in a set.
    """

    coverage: Interval
    size: Interval


def set_threshold(probabilities: NDArray[np.float32], truths: NDArray[np.int64], coverage: float) -> float | None:
    """From which probability on a class belongs to the set of an image; None where there are too few images.

    The least ambiguous sets (Sadinle et al. 2019, arXiv:1609.00451), with the finite-sample quantile of Vovk et al.
    (2005): of n held-out images the probability of the truth is sorted, and the floor((n + 1)(1 - coverage))-th lowest
    taken. For a new image like these the set holds the truth with at least that probability, on average over images.

    Args:
        probabilities: (N, K).
        truths: (N,) positions.
        coverage: in (0, 1).
    """
    place = len(truths) + 1 - ceil((len(truths) + 1) * coverage)
    if place < 1:
        return None
    own = np.sort(probabilities[np.arange(len(truths)), truths])
    return float(own[place - 1])


def sets(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """(N, K) -> (N, K): which classes are in the set of each image; the most probable one always is."""
    held: NDArray[np.bool_] = probabilities.astype(np.float64) >= threshold
    held[np.arange(len(held)), probabilities.argmax(1)] = True
    return held


def check_sets(probabilities: NDArray[np.float32], truths: NDArray[np.int64], threshold: float) -> Sets:
    """(N, K), (N,) of other images than those that the threshold was chosen on."""
    held = sets(probabilities, threshold)
    hits = int(held[np.arange(len(truths)), truths].sum())
    return Sets(wilson(hits, len(truths)), bootstrap_mean(held.sum(1).astype(np.float64), seed=SEED))
