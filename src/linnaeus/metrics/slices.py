"""Kinds of images on which a model does worse than on the rest: a slice is all images with one value of a column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, wilson

MAX_VALUES = 20
SMALLEST = 5
"""Slices of fewer images are shown together."""
LEVEL = 0.05
OTHERS = "(others)"


@dataclass(frozen=True)
class Column:
    """One property of N images.

    Attributes:
        values: what it can be.
        codes: (N,) positions in `values`.
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True)
class Slice:
    """Images with one value of a column.

    Attributes:
        accuracy: among them.
        rest: accuracy among all others.
        p_value: of so many errors or more if the slice were like the rest (Fisher's exact test, one-sided), times the
            number of slices looked at (Holm 1979): below 0.05 by chance in one of twenty evaluations, not in one of
            twenty slices.
    """

    column: str
    value: str
    accuracy: Interval
    rest: float
    p_value: float

    @property
    def fails(self) -> bool:
        """Whether it is worse than the rest by more than chance."""
        return self.p_value < LEVEL


def find_slices(right: NDArray[np.bool_], columns: Mapping[str, Column]) -> list[Slice]:
    """Every slice of every column, by column; a column with one value has none.

    Args:
        right: (N,), whether the answer is right.
        columns: by name; values with few images, and those beyond 20, are taken together.
    """
    cut = [
        (name, value, rows)
        for name, column in columns.items()
        for value, rows in _parts(column)
        if 0 < rows.sum() < len(right)
    ]
    p_values = _holm([_worse_by_chance(right, rows) for _, _, rows in cut])
    return [
        Slice(name, value, wilson(int(right[rows].sum()), int(rows.sum())), float(right[~rows].mean()), p)
        for (name, value, rows), p in zip(cut, p_values, strict=True)
    ]


def by_quantiles(values: NDArray[np.float64], format_value: str) -> Column:
    """Four parts of about equally many images; fewer where values repeat.

    Args:
        values: (N,) numbers.
        format_value: how one is shown, as `str.format` takes it: "{:.0f} px".
    """
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower"))
    edges = edges[edges < values.max()]
    ends = [format_value.format(edge) for edge in edges]
    if not ends:
        return Column((format_value.format(values.max()),), np.zeros(len(values), np.int32))
    middle = [f"{low} to {high}" for low, high in pairwise(ends)]
    return Column(
        (f"up to {ends[0]}", *middle, f"above {ends[-1]}"), np.searchsorted(edges, values, "left").astype(np.int32)
    )


def as_column(values: Sequence[str], codes: NDArray[np.int32]) -> Column:
    """A column of a table: by quantiles if it holds more numbers than can be shown one by one."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return Column(tuple(values), codes)
    if len(np.unique(codes)) <= MAX_VALUES or not np.isfinite(numbers).all():
        return Column(tuple(values), codes)
    return by_quantiles(numbers[codes], "{:g}")


def _parts(column: Column) -> list[tuple[str, NDArray[np.bool_]]]:
    """(value, (N,) which images), the most frequent values, then the others together."""
    counts = np.bincount(column.codes, minlength=len(column.values))
    by_count = np.argsort(-counts, kind="stable")[:MAX_VALUES]
    shown = np.sort(by_count[counts[by_count] >= SMALLEST])
    parts = [(column.values[code] or "(empty)", column.codes == code) for code in shown.tolist()]
    others = ~np.isin(column.codes, shown)
    return [*parts, (OTHERS, others)] if others.any() else parts


def _worse_by_chance(right: NDArray[np.bool_], rows: NDArray[np.bool_]) -> float:
    """The chance of at least as many errors among these images, if all errors were dealt out at random."""
    from scipy.stats import hypergeom

    wrong = ~right
    return float(hypergeom.sf(int(wrong[rows].sum()) - 1, len(right), int(wrong.sum()), int(rows.sum())))


def _holm(p_values: Sequence[float]) -> list[float]:
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.maximum.accumulate(np.array(p_values)[order] * factors).clip(max=1) if len(order) else np.zeros(0)
    found = np.empty(len(order))
    found[order] = adjusted
    return [float(p) for p in found]
