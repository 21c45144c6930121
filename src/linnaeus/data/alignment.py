"""Are two thumbnails the same picture? One is stretched and shifted onto the other, and their slopes are compared.

Slopes, not grey levels: any two landscapes with a bright sky correlate in their levels. P is a number of pairs.
"""

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.facts import THUMBNAIL

Grey = NDArray[np.float32]

_HALF = THUMBNAIL // 2
_STEPS = 4  # of Gauss and Newton; after the third, almost nothing moves
_MAX_STEP = np.array([0.06, 0.5, 0.06, 0.5], np.float32)  # (stretch, shift, stretch, shift), shifts in pixels of 16
_MAX_MOVE = np.array([0.15, 1.0, 0.15, 1.0], np.float32)
_MIN_GAIN = 0.2  # of contrast: a fit that wants less has not found the picture


def halve(grey: Grey) -> Grey:
    """(P, S, S) -> (P, S/2, S/2), averages."""
    rows = grey[:, ::2] + grey[:, 1::2]  # sums of slices: ten times as fast as a mean over two axes
    small: Grey = (rows[:, :, ::2] + rows[:, :, 1::2]) * np.float32(0.25)
    return small


def slopes(grey: NDArray[np.uint8] | Grey) -> Grey:
    """(P, 32, 32) -> (P, 480): differences of neighbours at half size, both ways, as unit vectors; 0 if all is flat."""
    return _slopes_of(halve(grey.astype(np.float32, copy=False)))


def detail(grey: NDArray[np.uint8] | Grey) -> Grey:
    """(P, 32, 32) -> (P,): how many independent slopes a picture has in effect, 0 to 480.

    About 1 for a ramp, 30 for a blurred spot, 120 for a silhouette, 220 for a photo. It is the lesser of two counts,
    each the squared sum of absolute values over the sum of squares: of the slopes, which are few where most of the
    picture is empty, and of their cosine transform, where few are large if the picture is smooth.
    """
    small = halve(grey.astype(np.float32, copy=False))
    in_place = _slopes_of(small)
    across = _COSINES[_HALF] @ np.diff(small, axis=2) @ _COSINES[_HALF - 1].T
    down = _COSINES[_HALF - 1] @ np.diff(small, axis=1) @ _COSINES[_HALF].T
    in_waves = _unit_vectors(*(waves.astype(np.float32, copy=False) for waves in (across, down)))
    count: Grey = np.minimum(np.abs(in_place).sum(1), np.abs(in_waves).sum(1)) ** 2
    return count


def slope_agreement(a: Grey, b: Grey) -> Grey:
    """(P, 32, 32) twice -> (P,): the correlation of the slopes, -1 to 1, without the two outermost pixels."""
    inner = slice(2, -2)
    correlation: Grey = (_slopes_of(halve(a[:, inner, inner])) * _slopes_of(halve(b[:, inner, inner]))).sum(1)
    return correlation


def align(a: Grey, b: Grey) -> Grey:
    """(P, 32, 32) twice -> (P, 32, 32): `a`, stretched and shifted along both sides so that it fits `b` best.

    Gauss and Newton's method on the squared differences, at half size, with brightness and contrast free. Moves stay
    within 15% of stretch and a sixteenth of the width of shift.
    """
    moves = np.zeros((len(a), 4), np.float32)
    small_a, small_b = _smooth(halve(a)), _smooth(halve(b))
    for _ in range(_STEPS):
        moves = np.clip(moves + _step(_warp(small_a, moves), small_b), -_MAX_MOVE, _MAX_MOVE)
    return _warp(a, moves * np.array([1, 2, 1, 2], np.float32))


def _step(a: Grey, b: Grey) -> Grey:
    """(P, 16, 16) twice -> (P, 4): the move that linear least squares takes for the best.

    b = brightness + contrast * (a + stretch_x * x * da/dx + shift_x * da/dx + the same for y)
    """
    along_y, along_x = np.gradient(a, axis=(1, 2))
    x = _centred(_HALF)
    terms = [np.ones_like(a), a, along_x * x, along_x, along_y * x[:, None], along_y]
    count = (_HALF - 2) ** 2
    inner = np.stack(terms, 3)[:, 1:-1, 1:-1].reshape(len(a), count, 6)
    transposed = inner.transpose(0, 2, 1)
    squares = transposed @ inner + 0.01 * np.eye(6, dtype=np.float32)  # flat pictures leave moves undetermined: keep 0
    right = transposed @ b[:, 1:-1, 1:-1].reshape(len(b), count, 1)
    fit = np.linalg.solve(squares, right)[:, :, 0]
    step: Grey = np.clip(fit[:, 2:] / np.maximum(fit[:, 1:2], _MIN_GAIN), -_MAX_STEP, _MAX_STEP)
    return step


def _warp(grey: Grey, moves: Grey) -> Grey:
    """(P, S, S) and (P, 4) -> (P, S, S), linearly interpolated; beyond the edge it goes on as at the edge."""
    side = grey.shape[1]
    across, down = (_interpolation(side, *moves[:, k : k + 2].T) for k in (0, 2))
    return (down @ grey @ across.transpose(0, 2, 1)).astype(np.float32, copy=False)


def _interpolation(side: int, stretch: Grey, shift: Grey) -> Grey:
    """(P,) twice -> (P, S, S): row i weighs the samples around (1 + stretch) * x_i + shift, with x from the middle."""
    places = _centred(side) * (1 + stretch[:, None]) + shift[:, None] + (side - 1) / 2
    inside = places.clip(0, side - 1).astype(np.float32)
    weights: Grey = np.float32(1) - np.abs(inside[:, :, None] - np.arange(side, dtype=np.float32))
    return weights.clip(0)


def _centred(side: int) -> Grey:
    return (np.arange(side) - (side - 1) / 2).astype(np.float32)


def _smooth(grey: Grey) -> Grey:
    """Weights 1/4, 1/2, 1/4 along both sides; the edge stays: moves of more than a pixel are found more surely."""
    rows = grey.copy()
    rows[:, 1:-1] = (grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]) / 4
    both = rows.copy()
    both[:, :, 1:-1] = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    return both


def _slopes_of(grey: Grey) -> Grey:
    return _unit_vectors(np.diff(grey, axis=2), np.diff(grey, axis=1))


def _unit_vectors(across: Grey, down: Grey) -> Grey:
    """Two (P, ...) arrays of slopes, or of their transforms, as one unit vector for each of P."""
    count = across[0].size if len(across) else 0
    both = np.concatenate([across.reshape(len(across), count), down.reshape(len(down), count)], 1)
    length = np.linalg.norm(both, axis=1, keepdims=True)
    # Less than half a grey level of slope in all is rounding, and has no direction.
    return np.where(length > 0.5, both / np.maximum(length, 0.5), 0)


def _cosines(size: int) -> Grey:
    """The matrix of the orthonormal cosine transform."""
    orders, places = np.arange(size)[:, None], np.arange(size)[None]
    waves = np.sqrt(2 / size) * np.cos(np.pi * orders * (2 * places + 1) / (2 * size))
    waves[0] /= np.sqrt(2)
    matrix: Grey = waves.astype(np.float32)
    return matrix


_COSINES = {size: _cosines(size) for size in (_HALF - 1, _HALF)}
