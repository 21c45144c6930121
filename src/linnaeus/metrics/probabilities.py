"""Every measure of an evaluation that looks at the probabilities, not at the answers alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.metrics.calibrate import Calibration, likelihoods
from linnaeus.metrics.intervals import Interval, bootstrap_mean
from linnaeus.metrics.ranking import mean_auroc, mean_average_precision
from linnaeus.metrics.reliability import Bin, calibration_error, reliability
from linnaeus.metrics.selective import RiskCoverage, confidence, risk_coverage

Truths = NDArray[np.bool_]

SEED = 2026


@dataclass(frozen=True)
class Trust:
    """How far probabilities can be believed.

    Attributes:
        log_loss: mean negative log likelihood of the truth, in nats (of a label, where an image may have several).
        brier: mean over the images of the squared errors, summed over the classes as Brier (1950) does, in [0, 2];
            where an image may have several classes the mean over the labels, in [0, 1].
        calibration_error: see `metrics/reliability.py`; of the most probable class, or of all labels.
        reliability: the bins that it is made of.
    """

    log_loss: Interval
    brier: Interval
    calibration_error: Interval
    reliability: list[Bin]


@dataclass(frozen=True)
class Probabilities:
    """All of one evaluation; `dataclasses.asdict` makes it JSON.

    Attributes:
        auroc: mean over the classes, each against all others; None where no class is present in some images only.
        average_precision: mean over the classes that some image has.
        before, after: without the calibration of the model and with it; the same where it has none.
        selective: what refusing the least sure answers gains.
    """

    auroc: Interval | None
    average_precision: Interval
    before: Trust
    after: Trust
    selective: RiskCoverage


def summarize_probabilities(
    logits: NDArray[np.float32], truths: Truths, calibration: Calibration, thresholds: list[float] | None
) -> Probabilities:
    """Every such measure.

    Args:
        logits: (N, K), not calibrated.
        truths: (N, K), of which at least one is True.
        thresholds: (K,) where an image may have several classes, else None.
    """
    several = thresholds is not None
    calibrated = calibrate(logits, calibration)
    before = trust(logits, truths, several=several)
    after = before if calibration.method == "none" else trust(calibrated, truths, several=several)
    sure, right = judged_answers(calibrated, truths, thresholds)
    probabilities = activate(calibrated, several=several)
    return Probabilities(
        auroc=mean_auroc(probabilities, truths),
        average_precision=mean_average_precision(probabilities, truths),
        before=before,
        after=after,
        selective=risk_coverage(sure, right),
    )


def trust(logits: NDArray[np.float32], truths: Truths, *, several: bool) -> Trust:
    """(N, K), (N, K) -> how far the probabilities of these logits can be believed."""
    probabilities = activate(logits, several=several)
    errors = (probabilities.astype(np.float64) - truths) ** 2
    if several:
        confidences, right = probabilities, truths
    else:
        confidences = probabilities.max(1, keepdims=True)
        right = np.take_along_axis(truths, logits.argmax(1)[:, None], axis=1)
    return Trust(
        log_loss=bootstrap_mean(likelihoods(logits, truths, several), seed=SEED),
        brier=bootstrap_mean(errors.mean(1) if several else errors.sum(1), seed=SEED),
        calibration_error=calibration_error(confidences, right),
        reliability=reliability(confidences, right),
    )


def judged_answers(
    logits: NDArray[np.float32], truths: Truths, thresholds: list[float] | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N, K), calibrated -> (N,) the confidence of each answer, and (N,) whether it is right in every respect."""
    probabilities = activate(logits, several=thresholds is not None)
    limits = None if thresholds is None else torch.tensor(thresholds, dtype=torch.float64)
    sure: NDArray[np.float64] = confidence(torch.from_numpy(probabilities), limits).numpy()
    if thresholds is None:
        return sure, truths[np.arange(len(truths)), logits.argmax(1)]
    return sure, ((probabilities.astype(np.float64) >= np.array(thresholds)) == truths).all(1)


def calibrate(logits: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """(N, K) -> (N, K)."""
    calibrated: NDArray[np.float32] = calibration.apply(torch.from_numpy(logits)).numpy()
    return calibrated


def activate(logits: NDArray[np.float32], *, several: bool) -> NDArray[np.float32]:
    """(N, K) logits -> (N, K) probabilities, as the classifier computes them."""
    tensor = torch.from_numpy(logits)
    probabilities: NDArray[np.float32] = (tensor.sigmoid() if several else tensor.softmax(1)).numpy()
    return probabilities
