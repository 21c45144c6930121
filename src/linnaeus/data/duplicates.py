"""Copies and near copies of images: the same photo saved again, resized, brightened, mirrored or cropped by a little.

Exact copies have the same content. Near copies are found in two steps. Candidates share most bits of a perceptual hash:
which of the 63 lowest frequencies of a thumbnail are positive. They are looked up by quarters of the hash, as in
multi-index hashing (Norouzi, Punjani and Fleet, 2012), so that not every pair is compared. Each candidate is then
confirmed: one thumbnail is stretched and shifted onto the other, by a little, and their slopes must agree more closely
than different images of so much detail do.

Of 2,598 photos that were changed, it finds 99% or more when they were compressed (JPEG quality 10), halved, mirrored or
made grey, 92 to 96% when 20% brighter (white is clipped), 97% when cropped by 4 pixels all around, 92 to 94% when by 2%
of the shorter side, and half when by 5%. Among the 1.8 thousand million pairs of CIFAR-10 it finds about a thousand,
none of which joins two classes. What differs in a small detail alone, too small for a thumbnail of 32 pixels, counts as
a near copy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.alignment import align, detail, slope_agreement, slopes
from linnaeus.data.facts import THUMBNAIL, TINT, Audit, Rows

Positions = NDArray[np.int64]
_Pictures = tuple[NDArray[np.uint8], NDArray[np.int8]]  # thumbnails and tints of some images

_LITTLE = 0.05  # of the root mean square of the coefficients
_BANDS = 4  # quarters of 16 bits of the hash
_MAX_DISTANCE = 10  # of 64 bits; those within 7 are always found, since one quarter differs by one bit at most
_DETAIL_A_BIT = 20  # detail that an image must have for each bit of distance: a silhouette has 120, a photo 220
_MIN_DETAIL = 60  # with less, two pictures cannot be told apart for certain
_MIN_ROUGH, _MIN_SURE = 10.0, 26.0  # evidence, as `_evidence` counts it, before and after alignment
_MIN_AGREEMENT = 0.9
_TINT_TOLERANCE = 10.0  # half grey levels, root mean square: what saturation and compression change
_CHUNK = 1024  # images or pairs at a time
_PAIRS_AT_ONCE = 2**21
# Sets whose images all look alike, such as those of a fixed camera, have about as many candidates as pairs: given up.
_MAX_LOOKUPS, _LOOKUPS_AN_IMAGE = 10**9, 10**4
_MAX_CANDIDATES, _CANDIDATES_AN_IMAGE = 200_000, 20


@dataclass(frozen=True)
class Twins:
    """Which of N images are copies of which.

    Attributes:
        copy_of: (N,) the first image with the same content: its own position where there is no other.
        first, second: (P,) pairs of near copies; each stands for all its exact copies.
        mirrored: (P,) whether one is the mirror image of the other.
        complete: False if the images are so alike that near copies could not be told apart and were given up.
    """

    copy_of: Positions
    first: Positions
    second: Positions
    mirrored: NDArray[np.bool_]
    complete: bool = True

    def families(self) -> Positions:
        """(N,) a number each, the same for images that are copies, or linked by a chain of near copies."""
        parents = self.copy_of.copy()
        for a, b in zip(self.first.tolist(), self.second.tolist(), strict=True):
            low, high = sorted((_root(parents, a), _root(parents, b)))
            parents[high] = low
        while (parents[parents] != parents).any():
            parents = parents[parents]
        return parents


def find_twins(found: Audit) -> Twins:
    """Copies and near copies among the images that decode."""
    copy_of = find_copies(found)
    usable = found.usable
    own = usable[copy_of[usable] == usable]  # one of each content
    grey = found.rows["grey"]
    hashes, mirror_hashes = (_in_chunks(partial(perceptual_hash, mirrored=flip), grey, own) for flip in (False, True))
    details = _in_chunks(detail, grey, own)
    pairs, complete = [], True
    for mirrored in (False, True):
        candidates = _candidates(hashes, mirror_hashes if mirrored else hashes, details)
        if candidates is None:
            complete = False
            continue
        pairs.append(_confirm(found.rows, own, details, candidates, mirrored=mirrored))
    first, second = (np.concatenate([pair[k] for pair in pairs] or [np.zeros(0, np.int64)]) for k in (0, 1))
    mirrored_too = np.repeat([False, True][: len(pairs)], [len(pair[0]) for pair in pairs])
    # An image that is its own mirror image pairs up both ways: once is enough.
    _, kept = np.unique(first * len(own) + second, return_index=True)
    return Twins(copy_of, own[first[kept]], own[second[kept]], mirrored_too[kept], complete)


def perceptual_hash(grey: NDArray[np.uint8], *, mirrored: bool = False) -> NDArray[np.uint64]:
    """(N, 32, 32) uint8 -> (N,) uint64: which of the 8 x 8 lowest coefficients of the cosine transform are positive.

    Positive by more than a little: those of a symmetric picture that are nearly 0 have no sign worth the name. With
    `mirrored`, the hashes of the mirror images: horizontal waves of odd order change their sign.
    """
    low = _COSINES @ grey.astype(np.float32) @ _COSINES.T  # (N, 8, 8)
    low[:, 0, 0] = 0  # the mean brightness, always positive
    if mirrored:
        low[:, :, 1::2] *= -1
    low = low.reshape(len(low), 64)
    bits = low > _LITTLE * np.sqrt((low**2).mean(1, keepdims=True))
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _cosines() -> NDArray[np.float32]:
    orders, places = np.arange(8)[:, None], np.arange(THUMBNAIL)[None]
    return np.cos(np.pi * orders * (2 * places + 1) / (2 * THUMBNAIL)).astype(np.float32)


_COSINES = _cosines()


def find_copies(found: Audit) -> Positions:
    """(N,) the first image with the same content, as `Twins.copy_of`."""
    copy_of = np.arange(len(found))
    read = np.flatnonzero(found.rows["digest"].any(1))
    halves = np.ascontiguousarray(found.rows["digest"][read]).view(np.uint64)  # (R, 2)
    _, first, inverse = np.unique(halves, axis=0, return_index=True, return_inverse=True)
    copy_of[read] = read[first[inverse.reshape(-1)]]
    return copy_of


def _candidates(
    hashes: NDArray[np.uint64], queries: NDArray[np.uint64], details: NDArray[np.float32]
) -> tuple[Positions, Positions] | None:
    """Pairs whose hash and query differ by few bits, as two arrays; None if there are too many to go through."""
    count = len(hashes)
    allowed = np.where(details < _MIN_DETAIL, -1, np.minimum(details / _DETAIL_A_BIT, _MAX_DISTANCE))
    lookups, found, total = 0, [], 0
    for order, start, ends in _buckets(hashes, queries):
        lookups += int((ends - start).sum())
        if lookups > max(_MAX_LOOKUPS, _LOOKUPS_AN_IMAGE * count):
            return None
        for a, b in _expand(order, start, ends):
            distance = np.bitwise_count(queries[a] ^ hashes[b])
            near = (a < b) & (distance <= allowed[a]) & (distance <= allowed[b])
            found.append(np.unique(a[near] * count + b[near]))
            total += len(found[-1])
        if total > 4 * max(_MAX_CANDIDATES, _CANDIDATES_AN_IMAGE * count):  # a pair may be met in several buckets
            return None
    pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
    if len(pairs) > max(_MAX_CANDIDATES, _CANDIDATES_AN_IMAGE * count):
        return None
    return pairs // count, pairs % count


def _buckets(
    hashes: NDArray[np.uint64], queries: NDArray[np.uint64]
) -> Iterator[tuple[Positions, Positions, Positions]]:
    """For each quarter, as it is and with each of its bits changed: an order, and each query's range in that order."""
    width = 64 // _BANDS
    for band in range(_BANDS):
        quarters = ((values >> np.uint64(width * band)) & np.uint64(2**width - 1) for values in (hashes, queries))
        keys, wanted = (quarter.astype(np.int64) for quarter in quarters)
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**width))])
        for change in (0, *(1 << bit for bit in range(width))):
            changed = wanted ^ change
            yield order, starts[changed], starts[changed + 1]


def _expand(order: Positions, start: Positions, ends: Positions) -> Iterator[tuple[Positions, Positions]]:
    """The pairs (query, member of its range), some millions at a time."""
    totals = np.cumsum(ends - start)
    low = 0
    while low < len(start):
        before = int(totals[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(totals, before + _PAIRS_AT_ONCE, "right")))
        sizes = ends[low:high] - start[low:high]
        queries = np.repeat(np.arange(low, high), sizes)
        offsets = np.arange(len(queries)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield queries, order[start[queries] + offsets]
        low = high


def _confirm(
    rows: Rows, own: Positions, details: NDArray[np.float32], candidates: tuple[Positions, Positions], *, mirrored: bool
) -> tuple[Positions, Positions]:
    """The candidates that are near copies; they and `details` count by `own`, the positions of their rows."""
    first, second = candidates
    kept = []
    for start in range(0, len(first), _CHUNK):
        a, b = (side[start : start + _CHUNK] for side in candidates)
        one, other = ((rows["grey"][own[side]], rows["tint"][own[side]]) for side in (a, b))
        kept.append(_is_twin(one, other, np.minimum(details[a], details[b]), mirrored))
    sure = np.concatenate([np.zeros(0, bool), *kept])
    return first[sure], second[sure]


def _is_twin(a: _Pictures, b: _Pictures, amount: NDArray[np.float32], mirrored: bool) -> NDArray[np.bool_]:
    """P thumbnails and tints twice, and the detail that both have -> (P,) whether they show the same."""
    ours, tint = (part.astype(np.float32) for part in a)
    if mirrored:
        ours, tint = ours[:, :, ::-1], tint[:, :, ::-1]
    theirs, their_tint = (part.astype(np.float32) for part in b)
    twin = _evidence((slopes(ours) * slopes(theirs)).sum(1), amount) >= _MIN_ROUGH
    twin &= _same_colours(tint, their_tint)
    (rest,) = twin.nonzero()
    agreement = slope_agreement(align(ours[rest], theirs[rest]), theirs[rest])
    twin[rest] = (agreement >= _MIN_AGREEMENT) & (_evidence(agreement, amount[rest]) >= _MIN_SURE)
    return twin


def _evidence(agreement: NDArray[np.float32], amount: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fisher's z of a correlation, in standard errors, with the amount of detail for the number of observations."""
    errors: NDArray[np.float32] = np.arctanh(agreement.clip(0, 0.99999)) * np.sqrt(amount)
    return errors


def _same_colours(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(P, 4, 4, 2) tints: alike up to saturation, or one of them grey."""
    a, b = (x.reshape(len(x), 2 * TINT**2) for x in (a, b))
    strong_a, strong_b = (np.sqrt((x**2).mean(1)) for x in (a, b))
    scale = (a * b).sum(1) / np.maximum((a**2).sum(1), 1e-6)  # least squares: b = scale * a
    rest = np.sqrt(((b - scale[:, None].clip(0, 2) * a) ** 2).mean(1))
    alike: NDArray[np.bool_] = (rest <= _TINT_TOLERANCE) | (np.minimum(strong_a, strong_b) < 1)
    return alike


def _in_chunks(
    function: Callable[[NDArray[np.uint8]], NDArray[Any]], grey: NDArray[np.uint8], own: Positions
) -> NDArray[Any]:
    return np.concatenate([function(grey[own[i : i + _CHUNK]]) for i in range(0, max(1, len(own)), _CHUNK)])


def _root(parents: Positions, position: int) -> int:
    while parents[position] != position:
        parents[position] = parents[parents[position]]
        position = int(parents[position])
    return position
