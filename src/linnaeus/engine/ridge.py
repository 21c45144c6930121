"""A linear head in closed form: least squares to 0 and 1 with an L2 penalty, for many fits in little time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRENGTHS = tuple(10.0**power for power in range(-3, 4))
"""Penalties, as parts of the mean square of a feature times the number of images."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ridge:
    """Scores are features @ weight + bias.

    Attributes:
        weight: (D, K).
        bias: (K,).
        strength: of `STRENGTHS`.
    """

    weight: Array
    bias: Array
    strength: float

    def scores(self, features: Array) -> Array:
        """(M, D) -> (M, K)."""
        scores: Array = features @ self.weight + self.bias
        return scores


def fit_ridge(features: Array, truths: NDArray[np.bool_]) -> Ridge:
    """The head whose squared error on each image, left out of its fit, is least over the penalties.

    The errors of all N fits that leave one image out follow from one (Allen 1974, Technometrics 16, 125-127).

    Args:
        features: (N, D), N at least 2.
        truths: (N, K), which classes each image has.
    """
    n, mean, wanted = len(features), features.mean(0), truths.astype(np.float64)
    centred, targets = features - mean, wanted - wanted.mean(0)
    # Whichever is smaller: the features among each other, or the images.
    wide = centred.shape[1] > n
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = values > 1e-10 * max(values[-1], 1e-300)
    values, vectors = values[kept], vectors[:, kept]
    left = vectors if wide else centred @ vectors / np.sqrt(values)  # (N, R), orthonormal
    parts = left.T @ targets  # (R, K)
    unit = values.sum() / max(1, len(values))
    best = (np.inf, 0.0, np.zeros_like(parts))
    for strength in STRENGTHS:
        shrink = values / (values + strength * unit)
        leverage = (left**2 * shrink).sum(1) + 1 / n
        errors = (targets - left @ (shrink[:, None] * parts)) / np.maximum(1 - leverage, 1e-9)[:, None]
        best = min(best, (float((errors**2).mean()), strength, shrink[:, None] * parts), key=lambda each: each[0])
    _, strength, shrunk = best
    right = centred.T @ left / np.sqrt(values) if wide else vectors  # (D, R), orthonormal
    weight = right @ (shrunk / np.sqrt(values)[:, None])
    return Ridge(weight, wanted.mean(0) - mean @ weight, strength)
