"""How well scores put the images of a class before all others: areas under curves that need no threshold.

The intervals are closed forms. The influence of an image is what its weight does to the value, times n (Efron 1982,
the infinitesimal jackknife; for the area under the ROC curve it is DeLong et al. 1988). The standard error is the root
of the sum of squared influences, over n; the ends are taken on the scale of the logit, with a quantile of Student's t.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, wilson

Scores = NDArray[np.float32] | NDArray[np.float64]
Truths = NDArray[np.bool_]


class Area(NamedTuple):
    """One class.

    Attributes:
        value: in [0, 1].
        influence: (N,) of each image on the value; their mean is 0.
        bias: by how much the value is expected to lie above that of the population.
    """

    value: float
    influence: NDArray[np.float64]
    bias: float = 0.0


def average_precision(scores: Scores, truth: Truths) -> Area:
    """The mean, over the images of a class, of the precision among all that rank as high or higher.

    Equal scores are one step, as in scikit-learn's `average_precision_score`, so that the order of the images does not
    matter. An image always precedes itself, so that precision at rank C is too
    high by about (1 - precision) / C: the bias.

    Args:
        scores: (N,), higher for images that are more likely of the class.
        truth: (N,), of which at least one is True.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hit = -scores[order], truth[order].astype(np.float64)
    first, last = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right") - 1
    seen, positives = last + 1.0, hit.sum()
    precision = np.cumsum(hit)[last] / seen
    value = float((hit * precision).sum() / positives)
    gained, lost = (_from_the_end(hit * part / seen)[first] for part in (1.0, precision))
    influence = np.empty(len(scores))
    influence[order] = len(scores) * (hit * (precision - value + gained) - lost) / positives
    return Area(value, influence, float((hit * (1 - precision) / seen).sum() / positives))


def auroc(scores: Scores, truth: Truths) -> Area:
    """The chance that an image of the class scores higher than one of another class; a tie is half of it.

    Args:
        scores: (N,), higher for images that are more likely of the class.
        truth: (N,), at least one True and one False.
    """
    own, other = np.sort(scores[truth]), np.sort(scores[~truth])
    above = (np.searchsorted(other, scores, "left") + np.searchsorted(other, scores, "right")) / (2 * len(other))
    below = 1 - (np.searchsorted(own, scores, "left") + np.searchsorted(own, scores, "right")) / (2 * len(own))
    value = float(above[truth].mean())
    share = truth.mean()
    return Area(value, np.where(truth, (above - value) / share, (below - value) / (1 - share)))


def mean_average_precision(scores: Scores, truths: Truths) -> Interval:
    """The mean over the classes that some image has.

    In simulation at 95% it covers 91 to 95% (100 to 1000 images of 1 to 40 classes, `tests/metrics/test_ranking.py`).

    Args:
        scores, truths: (N, K).

    Raises:
        ValueError: no image has a class.
    """
    seen = np.flatnonzero(truths.any(0)).tolist()
    if not seen:
        raise ValueError("no image has a class: there is no precision to average")
    areas = [average_precision(scores[:, k], truths[:, k]) for k in seen]
    return _interval(areas, truths[:, seen].sum(0))


def mean_auroc(scores: Scores, truths: Truths) -> Interval | None:
    """The mean over the classes that some image has and some has not, each against all others; None without any.

    Args:
        scores, truths: (N, K).
    """
    judged = np.flatnonzero(truths.any(0) & ~truths.all(0)).tolist()
    if not judged:
        return None
    fewer = np.minimum(truths.sum(0), (~truths).sum(0))
    return _interval([auroc(scores[:, k], truths[:, k]) for k in judged], fewer[judged])


def _interval(areas: list[Area], support: NDArray[np.int64], confidence: float = 0.95) -> Interval:
    """`support`: (K,) images that carry each area; they give the degrees of freedom."""
    from scipy.special import expit, logit, stdtrit

    value, n = float(np.mean([area.value for area in areas])), len(areas[0].influence)
    if value in (0.0, 1.0):  # no error was seen, so the influences say nothing; as many images could have shown one
        return Interval(value, *_ends(wilson(round(value) * int(support.sum()), int(support.sum()), confidence)), n)
    error = float(np.sqrt((np.mean([area.influence for area in areas], axis=0) ** 2).sum())) / n
    centre = float(np.clip(value - np.mean([area.bias for area in areas]), 1e-9, 1 - 1e-9))
    freedom = max(1, int(support.sum()) - len(areas))
    reach = stdtrit(freedom, (1 + confidence) / 2) * error / (centre * (1 - centre))
    low, high = (float(expit(logit(centre) + side * reach)) for side in (-1, 1))
    return Interval(value, min(value, low), max(value, high), n, confidence)


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _from_the_end(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At each place the sum of the values from there on."""
    sums: NDArray[np.float64] = np.cumsum(values[::-1])[::-1]
    return sums
