"""How well scores put the images of a class before all others: areas under curves that need no threshold.

The intervals need no drawing. What each image does to a value gives its standard error. Under the ROC curve that is its
influence, a closed form (DeLong et al. 1988). For the precision it is the value without the image, the jackknife, whose
mean also tells by how much few images make the value too high (Quenouille 1956, Tukey 1958; Efron 1982). The ends are
taken on the scale of the logit, with a quantile of Student's t.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, wilson

Scores = NDArray[np.float32] | NDArray[np.float64]
Truths = NDArray[np.bool_]


class Area(NamedTuple):
    """Under the ROC curve of one class.

    Attributes:
        value: in [0, 1].
        influence: (N,) of each image on the value; their mean is 0.
    """

    value: float
    influence: NDArray[np.float64]


class Precision(NamedTuple):
    """The average precision of one class.

    Attributes:
        value: in [0, 1].
        without: (N,) the value without each image; NaN for the only image of the class.
    """

    value: float
    without: NDArray[np.float64]


def average_precision(scores: Scores, truth: Truths) -> Precision:
    """The mean, over the images of a class, of the precision among all that rank as high or higher.

    Equal scores are one step, as in scikit-learn's `average_precision_score`, so that the order of the images does not
    matter. An image always precedes itself, so that the value of few images is too high.

    Args:
        scores: (N,), higher for images that are more likely of the class.
        truth: (N,), of which at least one is True.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hit = -scores[order], truth[order].astype(np.float64)
    first, last = np.searchsorted(ranked, ranked, "left"), np.searchsorted(ranked, ranked, "right") - 1
    seen, hits, positives = last + 1.0, np.cumsum(hit)[last], float(hit.sum())
    precision, others = hits / seen, np.maximum(seen - 1, 1)
    total = float((hit * precision).sum())
    # Without an image those that rank as high or lower have one fewer before them, and one hit fewer if it was one.
    above = total - _from_the_end(hit * precision)[first]
    no_miss = (above + _from_the_end(hit * hits / others)[first]) / positives
    no_hit = above + _from_the_end(hit * (hits - 1) / others)[first] - (hits - 1) / others
    no_hit = no_hit / (positives - 1) if positives > 1 else np.full(len(scores), np.nan)
    without = np.empty(len(scores))
    without[order] = np.where(hit > 0, no_hit, no_miss)
    return Precision(total / positives, without)


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

    Without the only image of a class the mean is over the others. How often it covers the truth: `docs/evaluation.md`.

    Args:
        scores, truths: (N, K).

    Raises:
        ValueError: no image has a class.
    """
    seen, n = np.flatnonzero(truths.any(0)).tolist(), len(scores)
    if not seen:
        raise ValueError("no image has a class: there is no precision to average")
    values, bias = np.zeros(len(seen)), 0.0
    sums, left = np.zeros(n), np.zeros(n)  # without each image: of the values, and over how many classes
    for place, k in enumerate(seen):
        values[place], without = average_precision(scores[:, k], truths[:, k])
        is_alone = np.isnan(without)
        sums += np.where(is_alone, 0, without)
        left += ~is_alone
        bias += (n - 1) * float(np.where(is_alone, values[place], without).mean() - values[place]) / len(seen)
    value = float(values.mean())
    means = np.divide(sums, left, out=np.full(n, value), where=left > 0)
    return _interval(value, (n - 1) * (means.mean() - means), truths[:, seen].sum(0), bias=bias)


def mean_auroc(scores: Scores, truths: Truths) -> Interval | None:
    """The mean over the classes that some image has and some has not, each against all others; None without any.

    Args:
        scores, truths: (N, K).
    """
    judged = np.flatnonzero(truths.any(0) & ~truths.all(0)).tolist()
    if not judged:
        return None
    fewer = np.minimum(truths.sum(0), (~truths).sum(0))
    areas = [auroc(scores[:, k], truths[:, k]) for k in judged]
    influence = np.mean([area.influence for area in areas], axis=0)
    return _interval(float(np.mean([area.value for area in areas])), influence, fewer[judged])


def _interval(
    value: float,
    influence: NDArray[np.float64],
    support: NDArray[np.int64],
    *,
    bias: float = 0.0,
    confidence: float = 0.95,
) -> Interval:
    """`influence`: (N,); `support`: (K,) images that carry each class, which give the degrees of freedom."""
    from scipy.special import expit, logit, stdtrit

    n = len(influence)
    if value in (0.0, 1.0):  # no error was seen, so the influences say nothing; as many images could have shown one
        return Interval(value, *_ends(wilson(round(value) * int(support.sum()), int(support.sum()), confidence)), n)
    error = float(np.sqrt((influence**2).sum() / (n * (n - 1))))
    centre = float(np.clip(value - bias, 1e-9, 1 - 1e-9))
    freedom = max(1, int(support.sum()) - len(support))
    reach = stdtrit(freedom, (1 + confidence) / 2) * error / (centre * (1 - centre))
    low, high = (float(expit(logit(centre) + side * reach)) for side in (-1, 1))
    return Interval(value, min(value, low), max(value, high), n, confidence)


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _from_the_end(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At each place the sum of the values from there on."""
    sums: NDArray[np.float64] = np.cumsum(values[::-1])[::-1]
    return sums
