"""What plain models reach on the images of a run, and what more images would bring: for the report."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import generator
from linnaeus.data.doctor import Audit
from linnaeus.engine.ridge import fit_ridge
from linnaeus.metrics.intervals import Interval
from linnaeus.report.record import LearningCurve, Point

MOST = 5000
"""Training images that a plain model learns from at most: a few seconds."""
MOST_JUDGED = 2000
DRAWS, SIZES, FITTED = 5, 6, 4
"""Draws of each number of images, numbers of images, and how many of the last are fitted by a law."""
ROUNDS = 400
FEW = 5
"""Of a class with fewer test images it is not said what it gains."""

Features = NDArray[np.float64]
Truths = NDArray[np.bool_]


def plain_features(audit: Audit, positions: NDArray[np.int64]) -> Features:
    """(N, 288): 16 by 16 grey values and 4 by 4 colours, as the doctor has seen them; no image is opened."""
    grey = audit.rows["grey"][positions].astype(np.float64)
    side = grey.shape[1] // 16
    small = grey.reshape(len(positions), 16, side, 16, side).mean((2, 4)).reshape(len(positions), -1)
    return np.concatenate([small, audit.rows["tint"][positions].reshape(len(positions), -1)], 1) / 64


def some(positions: NDArray[np.int64], most: int, *, seed: int) -> NDArray[np.int64]:
    """At most so many of the positions, drawn, in their order."""
    if len(positions) <= most:
        return positions
    return np.sort(generator(seed, "report").permutation(positions)[:most])


def learning_curve(
    train: tuple[Features, Truths],
    test: tuple[Features, Truths],
    classes: list[str],
    *,
    features: str,
    is_own: bool,
    progress: Callable[[int], None],
) -> LearningCurve:
    """A linear head on half, a quarter, ... of the images, and all.

    The law is that errors fall with a power of the number of images (Hestness et al. 2017, arXiv:1712.00409), fitted to
    the last points; its uncertainty comes from drawing the test images again.

    Args:
        train, test: (N, D) features and (N, K) truths, one class an image.
        progress: is called with 1 after each of `num_fits`.
    """
    sizes = sizes_of(len(train[0]), len(classes))
    right = np.zeros((len(sizes), DRAWS, len(test[0])), bool)  # whether each test image is judged rightly
    wanted = test[1].argmax(1)
    for draw in range(DRAWS):
        order = generator(draw, "report").permutation(len(train[0]))
        for place, size in enumerate(sizes):
            rows = order[:size]
            if place == len(sizes) - 1 and draw:  # all images: every draw is the same
                right[place, draw] = right[place, 0]
                continue
            right[place, draw] = fit_ridge(train[0][rows], train[1][rows]).scores(test[0]).argmax(1) == wanted
            progress(1)
    each = right.mean(2)
    points = [
        Point(n, float(row.mean()), float(row.min()), float(row.max())) for n, row in zip(sizes, each, strict=True)
    ]
    gains = _gains(right, wanted, classes) if len(sizes) > 1 else []
    return LearningCurve(features, is_own, points, _doubled(right.mean(1), sizes), gains)


def sizes_of(images: int, classes: int) -> list[int]:
    """Numbers of images, each about half of the next, that hold some of each class."""
    sizes = [images >> halvings for halvings in range(SIZES)]
    return sorted(size for size in sizes if size >= max(8, 3 * classes) or size == images)


def num_fits(images: int, classes: int) -> int:
    """How many heads `learning_curve` fits."""
    return DRAWS * (len(sizes_of(images, classes)) - 1) + 1


def _doubled(right: NDArray[np.float64], sizes: list[int]) -> Interval | None:
    """(sizes, M) how often each test image is judged rightly -> the accuracy with twice the most images."""
    last = right[-FITTED:]
    logs = np.log2(np.array(sizes[-FITTED:]) / sizes[-1])
    if len(logs) < 3:
        return None

    def beyond(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """(sizes, R) -> (R,), NaN where there is no error to follow."""
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (np.log(errors) * (logs - logs.mean())[:, None]).sum(0) / ((logs - logs.mean()) ** 2).sum()
        found: NDArray[np.float64] = errors[-1] * np.exp(np.minimum(slope, 0))  # more images never harm
        return found

    value = float(beyond(1 - last.mean(1, keepdims=True))[0])
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(last.shape[1], np.full(last.shape[1], 1 / last.shape[1]), ROUNDS).T / last.shape[1]
    gaps = (1 - last) @ drawn  # (sizes, R) errors
    gains = gaps[-1] - beyond(gaps)
    if not np.isfinite(value) or not np.isfinite(gains).all():
        return None
    now = float(last[-1].mean())
    low, high = np.quantile(gains, [0.025, 0.975])
    return Interval(1 - value, float(min(now + low, 1 - value)), float(max(now + high, 1 - value)), last.shape[1])


def _gains(right: NDArray[np.bool_], wanted: NDArray[np.int64], classes: list[str]) -> list[tuple[str, float]]:
    """(sizes, draws, M) -> what the last doubling brought each class."""
    step = right[-1].mean(0) - right[-2].mean(0)
    own = [(name, step[wanted == k]) for k, name in enumerate(classes)]
    gains = [(name, float(values.mean())) for name, values in own if len(values) >= FEW]
    return sorted(gains, key=lambda pair: -pair[1])
