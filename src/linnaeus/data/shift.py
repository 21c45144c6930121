"""Do the splits of a set come from the same world? Sizes, shapes, brightness and sources are compared.

A difference counts when it is both large and no accident: of many images, any two piles differ a little.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from math import erfc, exp, sqrt
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.findings import Case, Finding
from linnaeus.data.sources.base import SPLIT_NAMES

LEAST_DISTANCE = 0.25  # of Kolmogorov and Smirnov: a quarter of the images lie elsewhere
LEAST_ASSOCIATION = 0.3  # Cramér's V: by convention, a medium association
CERTAINTY = 1e-4  # chance of a distance as large from one and the same pile
FEWEST = 20  # images of a split: with fewer nothing can be said


def ks_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The largest gap between the cumulative distributions of two samples (Smirnov 1939), 0 to 1."""
    values = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(sample), values, "right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def ks_probability(distance: float, n: int, m: int) -> float:
    """The chance of such a distance between samples of n and m of one distribution.

    Kolmogorov's limit with Stephens' correction for small samples (1970), J. R. Stat. Soc. B 32, 115-122.
    """
    root = sqrt(n * m / (n + m))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:  # where the sum converges slowly, and the chance is 1 to twelve digits
        return 1.0
    terms = (exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, 2 * sum(term if k % 2 == 0 else -term for k, term in enumerate(terms)))


def cramers_v(table: NDArray[np.int64]) -> float:
    """The association of the rows and columns of a table of counts, 0 to 1, corrected for bias (Bergsma 2013).

    Without the correction, piles with many rare categories look different by chance alone.
    """
    table = table[table.any(1)][:, table.any(0)].astype(np.float64)
    rows, columns = table.shape
    n = table.sum()
    if rows < 2 or columns < 2:
        return 0.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    squared = ((table - expected) ** 2 / expected).sum() / n
    squared = max(0.0, squared - (rows - 1) * (columns - 1) / (n - 1))
    least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return sqrt(min(1.0, float(squared / least)))


def chi_square_probability(table: NDArray[np.int64]) -> float:
    """The chance of an association as strong between independent rows and columns (Wilson and Hilferty 1931)."""
    table = table[table.any(1)][:, table.any(0)].astype(np.float64)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if not freedom:
        return 1.0
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    ratio = float(((table - expected) ** 2 / expected).sum()) / freedom
    spread = 2 / (9 * freedom)
    return 0.5 * erfc((ratio ** (1 / 3) - (1 - spread)) / sqrt(2 * spread))


def check_shift(case: Case) -> Iterable[Finding]:
    """Splits that differ in size, shape, brightness, format, camera, channels, or a further column of the source."""
    for one, other, here, there in _pairs_of_splits(case):
        for what, values in _measures(case).items():
            distance = ks_distance(values[here], values[there])
            if distance >= LEAST_DISTANCE and ks_probability(distance, len(here), len(there)) < CERTAINTY:
                medians = (float(np.median(values[rows])) for rows in (here, there))
                between = " against ".join(f"{median:,.4g}" for median in medians)
                yield Finding(
                    "shift",
                    f"{one} and {other} differ in {what}: the medians are {between}, "
                    f"and {distance:.0%} of the images lie elsewhere (Kolmogorov-Smirnov distance).",
                )
        for what, codes in _categories(case).items():
            association = _association(codes, here, there)
            if association:
                yield Finding("shift", f"{one} and {other} differ in {what} (Cramér's V = {association:.2f}).")


def check_naming(case: Case) -> Iterable[Finding]:
    """Splits whose files are called differently, as when they were gathered by different people."""
    splits = _pairs_of_splits(case)
    first = next(splits, None)
    if first is None:
        return
    numbers: dict[str, int] = {}
    prefixes = (_prefix(case.name(index)) for index in range(len(case.labels)))
    codes = np.fromiter((numbers.setdefault(prefix, len(numbers)) for prefix in prefixes), np.int64)
    for one, other, here, there in (first, *splits):
        association = _association(codes, here, there)
        if association:
            yield Finding(
                "naming",
                f"File names of {one} and {other} begin differently (Cramér's V = {association:.2f}), "
                f"as {PurePath(case.name(int(here[0]))).name} and {PurePath(case.name(int(there[0]))).name}.",
            )


def _pairs_of_splits(case: Case) -> Iterator[tuple[str, str, NDArray[np.int64], NDArray[np.int64]]]:
    """(name, name, usable positions, usable positions) of every two splits that are large enough."""
    usable = case.audit.usable
    own = {split: usable[case.labels.splits[usable] == split] for split in case.splits}
    large = [split for split, positions in own.items() if len(positions) >= FEWEST]
    for one, other in combinations(large, 2):
        yield one, other, own[one], own[other]


def _measures(case: Case) -> dict[str, NDArray[np.float64]]:
    height, width = case.audit.shapes[:, 0], case.audit.shapes[:, 1]
    return {
        "size (square root of the area, pixels)": np.sqrt(height * width),
        "shape (width over height)": width / np.maximum(height, 1),
        "brightness (mean grey level)": case.audit.rows["grey"].mean((1, 2)),
    }


def _categories(case: Case) -> dict[str, NDArray[np.int64]]:
    rows = case.audit.rows
    told = {name: facet.codes.astype(np.int64) for name, facet in case.labels.extra.items()}
    found = {
        "file format": _codes(rows["format"]),
        "camera (EXIF)": _codes(rows["camera"]),
        "being grey or in colour": _codes(case.audit.shapes[:, 2]),
    }
    return {**found, **{f"'{name}'": codes for name, codes in told.items()}}


def _codes(values: NDArray[np.generic]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = np.unique(values, return_inverse=True)[1].reshape(-1)
    return codes


def _association(codes: NDArray[np.int64], here: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Cramér's V of category and split where it is large and no accident, else 0."""
    size = int(codes.max()) + 1
    table = np.stack([np.bincount(codes[rows], minlength=size) for rows in (here, there)])  # (2, categories)
    association = cramers_v(table)
    return association if association >= LEAST_ASSOCIATION and chi_square_probability(table) < CERTAINTY else 0.0


def _prefix(name: str) -> str:
    """What a file name begins with before any digit, without the name of a split: `img` of `IMG_test_0042.jpg`."""
    stem = PurePath(name).stem.lower()
    start = next((k for k, letter in enumerate(stem) if letter.isdigit()), len(stem))
    words = stem[:start].replace("-", "_").split("_")
    return "_".join(word for word in words if word not in SPLIT_NAMES)
