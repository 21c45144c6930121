"""Against classes of unequal size: what errors count, how often images are drawn, how logits are shifted."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import generator, permutation

Weighting = Literal["balanced", "effective"]


def class_weights(counts: NDArray[np.int64], how: Weighting) -> NDArray[np.float64]:
    """What an error on an image of each class counts. The mean over images is 1: the learning rate keeps its meaning.

    "balanced" lets all classes count the same: N / (K n_c) for n_c of N images and K classes. "effective" is milder on
    large classes, whose images repeat each other: (1 - b) / (1 - b^n_c) with b = 1 - 1 / N, then brought to the mean 1
    (Cui et al., arXiv:1901.05555, who take N for the number of distinct images there are).

    Args:
        counts: (K,), training images of each class, all positive.
        how: see above.

    Returns:
        (K,).
    """
    _check_counts(counts)
    total = int(counts.sum())
    # With expm1 and log1p for 1 - b^n without loss of digits: b is close to 1.
    weights: NDArray[np.float64] = 1 / counts if how == "balanced" else 1 / -np.expm1(counts * np.log1p(-1 / total))
    weights *= total / (weights * counts).sum()
    return weights


def positive_weights(counts: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    """(K,), images without each class over images with it: then yes and no count the same, for `binary_cross_entropy`.

    Args:
        counts: (K,), training images that have each class, all positive.
        total: training images. A class that all of them have keeps the weight of a single no.
    """
    _check_counts(counts)
    return np.maximum(total - counts, 1) / counts


def logit_offsets(shares: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    """(K,), tau log(share of the class): the offsets of `cross_entropy` for the logit-adjusted loss.

    Args:
        shares: (K,), of the training images; positive, with the sum 1.
        tau: 1 makes the balanced error rate what is optimised; 0 changes nothing.
    """
    if not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError("the shares of the classes must be positive and sum to 1")
    return tau * np.log(shares)


def balanced_rows(classes: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """(N,), the rows of an epoch of N images in which all classes are equally frequent, to one image.

    A class goes through its images in an order of its own, drawn anew each time around, and each epoch goes on where
    the one before stopped: images of a small class come several times an epoch, those of a large one every few epochs,
    and over the epochs each as often as the others of its class. Nothing is remembered between epochs: the rows are a
    function of the arguments alone.

    Args:
        classes: (N,), of each training image.
        seed: draws the orders.
        epoch: from 0.
    """
    present, counts = np.unique(classes, return_counts=True)
    share, extra = divmod(len(classes), len(present))
    parts = []
    for number, (name, count) in enumerate(zip(present.tolist(), counts.tolist(), strict=True)):
        own = np.flatnonzero(classes == name)
        quota = share + (number < extra)
        first, stop = epoch * quota, (epoch + 1) * quota
        rounds = range(first // count, -(-stop // count))
        order = [generator(seed, f"balance/{name}", turn).permutation(count) for turn in rounds]
        within = first - rounds.start * count
        parts.append(own[np.concatenate(order)[within : within + quota]])
    return np.concatenate(parts)[permutation(len(classes), seed=seed, epoch=epoch)]


def _check_counts(counts: NDArray[np.int64]) -> None:
    if not (counts > 0).all():
        raise ValueError(f"class {int(counts.argmin())} has no training image: its weight would be infinite")
