"""From `Counts` to numbers. Every function is pure; 0 / 0 is 0.0 throughout, as in scikit-learn's `zero_division=0`."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.counts import Counts
from linnaeus.metrics.intervals import Interval, bootstrap_from_confusion, wilson, wilson_mean

SEED = 2026
ROUNDS, FEWEST_ROUNDS = 1000, 200
MAX_WORK = 10**8
"""Cells of a confusion matrix x rounds of a bootstrap."""


@dataclass(frozen=True)
class PerClass:
    """One entry a class, in the order of the classes.

    Attributes:
        precision: of the images predicted as the class, the part that is.
        recall: of the images of the class, the part predicted as it.
        f1: harmonic mean of the two.
        support: the number of images of the class.
    """

    precision: list[float]
    recall: list[float]
    f1: list[float]
    support: list[int]


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 averaged over classes, in [0, 1]."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """All that is reported of one evaluation; `dataclasses.asdict` makes it JSON.

    Attributes:
        n: the number of images.
        top1: accuracy.
        top5: how often the truth is among the min(5, K) largest logits.
        balanced_accuracy: mean recall of the classes that have images.
        macro_f1: mean F1 of the K classes.
        nll: mean negative log likelihood of the truth, in nats.
        macro: averages in which every one of the K classes counts the same, with or without images.
        weighted: averages in which every class counts by its support.
        per_class: the figures behind the averages.
    """

    n: int
    top1: Interval
    top5: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    nll: float
    macro: Averages
    weighted: Averages
    per_class: PerClass


class Rates(NamedTuple):
    """Three arrays of shape (..., K) in [0, 1]."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def summarize(counts: Counts) -> Scores:
    """Every score of an evaluation.

    Raises:
        ValueError: no image was counted, or logits were NaN or infinite. So do all functions of `Counts` below.
    """
    figures = per_class(counts)
    return Scores(
        n=int(counts.n),
        top1=accuracy(counts),
        top5=top5_accuracy(counts),
        balanced_accuracy=balanced_accuracy(counts),
        macro_f1=mean_f1(counts),
        nll=mean_nll(counts),
        macro=macro_average(figures),
        weighted=weighted_average(figures),
        per_class=figures,
    )


def accuracy(counts: Counts) -> Interval:
    """The part of the images whose largest logit is the truth."""
    host = counts.read()
    return wilson(int(host.confusion.diagonal().sum()), int(host.n))


def top5_accuracy(counts: Counts) -> Interval:
    """The part of the images whose truth is among the min(5, K) largest logits: 1 for K of at most 5."""
    host = counts.read()
    return wilson(int(host.top5), int(host.n))


def balanced_accuracy(counts: Counts) -> Interval:
    """The mean recall of the classes that have images: a rare class counts as much as a frequent one."""
    confusion = confusion_array(counts)
    return wilson_mean(confusion.diagonal(), confusion.sum(axis=1))


def mean_f1(counts: Counts) -> Interval:
    """The plain mean of the F1 of all K classes, by the bootstrap; of 0 or 1 in every round it has no width."""
    confusion = confusion_array(counts)
    rounds = int(np.clip(MAX_WORK // confusion.size, FEWEST_ROUNDS, ROUNDS))
    return bootstrap_from_confusion(confusion, macro_f1, seed=SEED, rounds=rounds)


def mean_nll(counts: Counts) -> float:
    """The mean negative log likelihood of the truth, in nats; log K for a uniform guess."""
    host = counts.read()
    return float(host.nll / host.n)


def per_class(counts: Counts) -> PerClass:
    """Precision, recall, F1 and support of each class."""
    confusion = confusion_array(counts)
    precision, recall, f1 = class_rates(confusion)
    support = confusion.sum(axis=1)
    return PerClass(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())


def macro_average(figures: PerClass) -> Averages:
    """The plain mean over all K classes; one without images or predictions brings in 0."""
    return _average(figures, [1] * len(figures.support))


def weighted_average(figures: PerClass) -> Averages:
    """The mean weighted by support; its recall is the accuracy."""
    return _average(figures, figures.support)


def macro_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., K, K) counts -> (...) macro F1: a statistic for `bootstrap_from_confusion`."""
    mean: NDArray[np.float64] = class_rates(confusion).f1.mean(axis=-1)
    return mean


def class_rates(confusion: NDArray[np.int64]) -> Rates:
    """(..., K, K) counts, rows the truth -> the rates of each class.

    With TP hits, FP false alarms and FN misses: precision TP / (TP + FP), recall TP / (TP + FN),
    F1 2 TP / (2 TP + FP + FN).
    """
    hits = confusion.diagonal(axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return Rates(_ratio(hits, predicted), _ratio(hits, actual), _ratio(2 * hits, predicted + actual))


def most_confused(confusion: NDArray[np.int64], limit: int) -> list[tuple[int, int, int]]:
    """The most frequent errors, as (truth, predicted, count), the largest count first.

    Args:
        confusion: (K, K) counts, rows the truth: `confusion_array(counts)`.
        limit: how many at most. Equal counts come in the order of (truth, predicted); pairs never confused do not come.
    """
    errors = np.array(confusion)
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[: max(0, limit)]
    pairs = zip(*np.unravel_index(order, errors.shape), strict=True)
    return [(int(i), int(j), int(errors[i, j])) for i, j in pairs if errors[i, j] > 0]


def confusion_array(counts: Counts) -> NDArray[np.int64]:
    """(K, K) int64 on the host, checked."""
    confusion: NDArray[np.int64] = counts.read().confusion.numpy()
    return confusion


def _average(figures: PerClass, weights: list[int]) -> Averages:
    columns = (figures.precision, figures.recall, figures.f1)
    return Averages(*(float(np.average(column, weights=weights)) for column in columns))


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Elementwise part / whole. A part is never larger than its whole, so that 0 / 1 stands in for 0 / 0."""
    ratio: NDArray[np.float64] = part / np.maximum(whole, 1)
    return ratio
