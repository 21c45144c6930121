"""Probabilities that mean what they say: logits rescaled so that held-out images are as likely as they turn out to be.

Two forms: one temperature for all classes, and a factor and an offset for each (vector scaling), both of Guo et al.
2017, arXiv:1706.04599, section 4.2. Where an image may have several classes the second is Platt's scaling (1999).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Truths = NDArray[np.bool_]
Fit = Callable[[NDArray[np.float64], Truths, bool], "Calibration"]

FOLDS = 5
COLDEST, HOTTEST = 0.05, 20.0
VECTOR_IMAGES = 20
"""A factor and an offset are fitted only where every class has, and every class lacks, so many images."""
MAX_CELLS = 5 * 10**6
"""Images x classes that a fit looks at: one temperature does not get better by more. Of more images, every m-th."""
VECTOR_CELLS = 10**6


@dataclass(frozen=True)
class Calibration:
    """What is done to logits before they become probabilities.

    Attributes:
        method: "none", "temperature" for logits / temperature, "vector" for logits * scale + bias.
        scale, bias: (K,) where the method is "vector".
    """

    method: Literal["none", "temperature", "vector"] = "none"
    temperature: float = 1.0
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()

    def apply(self, logits: Tensor) -> Tensor:
        """(B, K) float -> (B, K) float."""
        if self.method == "vector":
            return logits * logits.new_tensor(self.scale) + logits.new_tensor(self.bias)
        return logits / self.temperature

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        content: dict[str, Any] = {"method": self.method, "temperature": self.temperature}
        return content | ({"scale": list(self.scale), "bias": list(self.bias)} if self.method == "vector" else {})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Calibration":
        """Of `model.json`; further keys say how it was found."""
        vectors = (tuple(content.get(name, ())) for name in ("scale", "bias"))
        return Calibration(content["method"], float(content["temperature"]), *vectors)


@dataclass(frozen=True)
class Fitted:
    """A calibration, and what it does for images that it was not fitted on.

    Attributes:
        before: mean negative log likelihood of the n images without calibration, in nats (of a label, where an image
            may have several).
        after: the same with it, each image judged by a fit on the others.
        logits: (N, K) float32, calibrated in that way.
    """

    calibration: Calibration
    n: int
    before: float
    after: float
    logits: NDArray[np.float32]


def fit_calibration(logits: NDArray[np.float32], truths: Truths, *, several: bool) -> Fitted:
    """The calibration that makes held-out images likeliest, judged by cross-validation in five parts.

    A temperature is taken only if the likelihood of images that it was not fitted on rises; a factor and an offset a
    class only if it rises further, by more than the standard error of the difference. No calibration otherwise.

    Args:
        logits: (N, K) of images that the network has not learnt from.
        truths: (N, K), which classes each image has.
        several: whether an image may have several classes, or none.
    """
    before = likelihoods(logits, truths, several)
    best, taken, best_losses = Calibration(), logits, before
    if len(logits) < 2:
        return Fitted(best, len(logits), float(before.mean()), float(before.mean()), logits)
    forms: list[tuple[Fit, float]] = [(_temperature, 0.0)]
    enough = min(truths.sum(0).min(), (~truths).sum(0).min()) >= VECTOR_IMAGES
    if enough and truths.size <= VECTOR_CELLS:
        forms.append((_vector, 1.0))
    for fit, errors in forms:
        held_out = _cross_fitted(fit, logits, truths, several)
        losses = likelihoods(held_out, truths, several)
        gain = best_losses - losses
        if gain.mean() > errors * gain.std(ddof=1) / np.sqrt(len(gain)):
            best, taken, best_losses = fit(logits.astype(np.float64), truths, several), held_out, losses
    return Fitted(best, len(logits), float(before.mean()), float(best_losses.mean()), taken)


def likelihoods(logits: NDArray[np.float32], truths: Truths, several: bool) -> NDArray[np.float64]:
    """(N, K) -> (N,) negative log likelihoods, in nats; of several classes the mean over the labels."""
    from scipy.special import logsumexp

    wide = logits.astype(np.float64)
    if several:
        mean: NDArray[np.float64] = (np.logaddexp(0, wide) - wide * truths).mean(1)
        return mean
    own: NDArray[np.float64] = logsumexp(wide, axis=1) - (wide * truths).sum(1)
    return own


def _cross_fitted(fit: Fit, logits: NDArray[np.float32], truths: Truths, several: bool) -> NDArray[np.float32]:
    """Each image calibrated by a fit on the parts that it is not in."""
    part = np.random.default_rng(0).permutation(len(logits)) % min(FOLDS, len(logits))
    held_out = np.empty_like(logits)
    for number in range(part.max() + 1):
        chosen = part == number
        calibration = fit(logits[~chosen].astype(np.float64), truths[~chosen], several)
        held_out[chosen] = calibration.apply(torch.from_numpy(logits[chosen])).numpy()
    return held_out


def _temperature(logits: NDArray[np.float64], truths: Truths, several: bool) -> Calibration:
    """The slope of the loss in 1 / temperature rises, so that its zero is the minimum."""
    from scipy.optimize import brentq

    step = -(-logits.size // MAX_CELLS)
    logits, wanted = logits[::step], _softened(truths[::step], several)

    def slope(log_inverse: float) -> float:
        return float(((_probabilities(np.exp(log_inverse) * logits, several) - wanted) * logits).sum())

    low, high = -np.log(HOTTEST), -np.log(COLDEST)
    if slope(low) >= 0 or slope(high) <= 0:
        return Calibration("temperature", HOTTEST if slope(low) >= 0 else COLDEST)
    return Calibration("temperature", float(np.exp(-brentq(slope, low, high, xtol=1e-6))))


def _vector(logits: NDArray[np.float64], truths: Truths, several: bool) -> Calibration:
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    wanted, (n, classes) = _softened(truths, several), logits.shape

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = logits * parameters[:classes] + parameters[classes:]
        value = np.logaddexp(0, scaled).sum() if several else logsumexp(scaled, axis=1).sum()
        rest = _probabilities(scaled, several) - wanted
        slopes = np.concatenate([(rest * logits).sum(0), rest.sum(0)])
        return float(value - (wanted * scaled).sum()) / n, slopes / n

    start = np.concatenate([np.full(classes, 1 / _temperature(logits, truths, several).temperature), np.zeros(classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return Calibration("vector", 1.0, tuple(found[:classes].tolist()), tuple(found[classes:].tolist()))


def _probabilities(logits: NDArray[np.float64], several: bool) -> NDArray[np.float64]:
    from scipy.special import expit, softmax

    made: NDArray[np.float64] = expit(logits) if several else softmax(logits, axis=1)
    return made


def _softened(truths: Truths, several: bool) -> NDArray[np.float64]:
    """(N, K) targets as if one more image were not told: finite, be all images right (Platt 1999, section 2.2)."""
    if several:
        own = truths.sum()
        wanted: NDArray[np.float64] = np.where(truths, (own + 1) / (own + 2), 1 / (truths.size - own + 2))
    else:
        share = 1 / (len(truths) + 1)
        wanted = (1 - share) * truths + share / truths.shape[1]
    return wanted
