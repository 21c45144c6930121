"""Scores where an image may have several classes, or none. Every function is pure; 0 / 0 is 0.0 unless it says not."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics import ranking
from linnaeus.metrics.intervals import Interval, bootstrap_over_images, wilson
from linnaeus.metrics.outputs import Judged

Truths = NDArray[np.bool_]

SEED = 2026
ROUNDS, FEWEST_ROUNDS = 1000, 200
MAX_WORK = 4 * 10**9
"""Images x classes x rounds of a bootstrap: half a minute at most on one core, unless the fewest rounds take longer."""


@dataclass(frozen=True)
class LabelScores:
    """One entry a class, in the order of the classes.

    Attributes:
        average_precision: None for a class that no image has.
        precision, recall, f1: at the class's threshold.
        support: the number of images that have the class.
        predicted: the number of images that are said to have it.
        threshold: from which probability on an image is said to have it.
    """

    average_precision: list[float | None]
    precision: list[float]
    recall: list[float]
    f1: list[float]
    support: list[int]
    predicted: list[int]
    threshold: list[float]


@dataclass(frozen=True)
class MultiScores:
    """All that is reported of one evaluation with several classes an image; `dataclasses.asdict` makes it JSON.

    Attributes:
        n: the number of images.
        mean_average_precision: the plain mean over the classes that some image has. It needs no threshold.
        micro_f1: of all labels of all images together, at the thresholds.
        macro_f1: the plain mean over all K classes.
        exact_match: the part of the images whose classes are all right, at the thresholds.
        loss: mean binary cross-entropy of a label, in nats; log 2 where every probability is a half.
        labels_per_image: the mean number of classes of an image.
        unseen: positions of the classes that no image has, which are not in the mean average precision.
        per_class: the figures behind the averages.
    """

    n: int
    mean_average_precision: Interval
    micro_f1: Interval
    macro_f1: Interval
    exact_match: Interval
    loss: float
    labels_per_image: float
    unseen: list[int]
    per_class: LabelScores

    @property
    def num_seen(self) -> int:
        """How many classes some image has."""
        return len(self.per_class.support) - len(self.unseen)


def summarize_labels(judged: Judged, thresholds: list[float]) -> MultiScores:
    """Every score of an evaluation.

    Args:
        judged: of N images, of which at least one has a class.
        thresholds: (K,) in (0, 1).
    """
    truths, predicted = judged.truths, decide(judged.probabilities, thresholds)
    n, support = len(truths), truths.sum(0)
    matches = _Matches(truths, predicted)
    rounds = int(np.clip(MAX_WORK // truths.size, FEWEST_ROUNDS, ROUNDS))
    interval = partial(bootstrap_over_images, n=n, seed=SEED, rounds=rounds)
    return MultiScores(
        n=n,
        mean_average_precision=ranking.mean_average_precision(judged.logits, truths),
        micro_f1=interval(matches.micro_f1),
        macro_f1=interval(matches.macro_f1),
        exact_match=wilson(int((truths == predicted).all(1).sum()), n),
        loss=mean_loss(judged),
        labels_per_image=float(support.sum() / n),
        unseen=np.flatnonzero(support == 0).tolist(),
        per_class=_by_class(average_precisions(judged.logits, truths), truths, predicted, thresholds),
    )


def _by_class(
    precisions: NDArray[np.float64], truths: Truths, predicted: NDArray[np.bool_], thresholds: list[float]
) -> LabelScores:
    hits, support, said = (truths & predicted).sum(0), truths.sum(0), predicted.sum(0)
    return LabelScores(
        average_precision=[None if np.isnan(value) else float(value) for value in precisions],
        precision=(hits / np.maximum(said, 1)).tolist(),
        recall=(hits / np.maximum(support, 1)).tolist(),
        f1=(2 * hits / np.maximum(support + said, 1)).tolist(),
        support=support.tolist(),
        predicted=said.tolist(),
        threshold=list(thresholds),
    )


def decide(probabilities: NDArray[np.float32], thresholds: list[float]) -> NDArray[np.bool_]:
    """(N, K), (K,) -> (N, K): which classes each image is said to have: those from their thresholds on."""
    said: NDArray[np.bool_] = probabilities.astype(np.float64) >= np.array(thresholds)
    return said


def mean_average_precision(judged: Judged) -> float:
    """The mean average precision without its interval: for choosing among epochs.

    Raises:
        ValueError: no image has a class.
    """
    return ranking.mean_average_precision(judged.logits, judged.truths).value


def mean_loss(judged: Judged) -> float:
    """The mean binary cross-entropy of a label, in nats, computed in float64."""
    logits = judged.logits.astype(np.float64)
    return float(np.mean(np.logaddexp(0, logits) - logits * judged.truths))


def mean_f1(judged: Judged, thresholds: list[float]) -> float:
    """The macro F1 at the thresholds without its interval: for choosing among epochs."""
    matches = _Matches(judged.truths, decide(judged.probabilities, thresholds))
    return float(matches.macro_f1(np.ones((len(judged.truths), 1), np.int32))[0])


def average_precisions(logits: NDArray[np.float32], truths: Truths) -> NDArray[np.float64]:
    """(N, K), (N, K) -> (K,): the average precision of each class, NaN for one that no image has."""
    columns = zip(logits.T, truths.T, strict=True)
    return np.array([ranking.average_precision(own, truth).value if truth.any() else np.nan for own, truth in columns])


class _Matches:
    """What F1 is made of, by image and class, to be weighed."""

    def __init__(self, truths: Truths, predicted: NDArray[np.bool_]) -> None:
        self._twice_hits = 2.0 * (truths & predicted)  # (N, K)
        self._sizes = truths.astype(np.float64) + predicted

    def micro_f1(self, drawn: NDArray[np.int32]) -> NDArray[np.float64]:
        """(N, R) -> (R,)."""
        hits, sizes = self._twice_hits.sum(1) @ drawn, self._sizes.sum(1) @ drawn
        value: NDArray[np.float64] = hits / np.maximum(sizes, 1)
        return value

    def macro_f1(self, drawn: NDArray[np.int32]) -> NDArray[np.float64]:
        """(N, R) -> (R,)."""
        hits, sizes = self._twice_hits.T @ drawn, self._sizes.T @ drawn  # (K, R)
        value: NDArray[np.float64] = (hits / np.maximum(sizes, 1)).mean(0)
        return value
