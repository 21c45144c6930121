"""From the cells of a table to labels: one class an image, or several.

An image has several classes (the task is multi-label) where

- a cell is a list, in JSONL or Parquet;
- the label column is absent, and all columns but path and split hold 0 or 1: one column a class;
- the cells hold a separator, one of | ; and , under all of these conditions, tried in this order:
    1. no cell has an empty part between separators;
    2. at least two images, and one in a hundred, have several parts;
    3. the parts recombine: they are fewer than the different cells, or at least half of those seen in company are
       also seen alone. So "tench, Tinca tinca" and "animal|dog" stay names, and "cat|dog" beside "cat" does not.

White space never separates, for names contain it. An empty cell is an image without a class where images may have
several, and a row without a label, which is left out, where they have one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError
from linnaeus.data.sources.base import SPLIT_NAMES, Facet, Labels
from linnaeus.data.sources.columns import Roles, no_label, shorten
from linnaeus.data.sources.paths import readable
from linnaeus.data.sources.rows import Cell, Coded, Gathered, Table

SEPARATORS = ("|", ";", ",")
# A folder called `dev` may be a class; in a column of splits it cannot.
SPLITS = {**SPLIT_NAMES, "training": "train", "dev": "val", "testing": "test", "": ""}
"""What a table calls a split, in any case."""
_YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class _Targets:
    """The classes of N rows; `missing` (N,) bool marks rows without a label."""

    classes: tuple[str, ...]
    targets: NDArray[np.int64] | NDArray[np.uint8]
    missing: NDArray[np.bool_]
    notes: tuple[str, ...]


def make_labels(
    table: Table, roles: Roles, gathered: Gathered, name: Callable[[int], str]
) -> tuple[Labels, NDArray[np.int64]]:
    """The labels of the rows of a table that can be used.

    A row without a path, without a label, or with the path of an earlier row is left out and stands in `ignored`.

    Args:
        table, roles, gathered: the table, read.
        name: what a person calls the image of a row.

    Returns:
        The labels of M images, and (M,) the rows that they are from.

    Raises:
        RequestError: if there is neither a label column nor one column a class.
        DataError: if a split is unknown, no row can be used, or all have the same class.
    """
    where, number = table.header.where, len(gathered.first)
    problems = _problems(roles, gathered)
    rows = np.flatnonzero(~np.any([*problems.values(), np.zeros(number, bool)], axis=0))
    if not len(rows):
        reason = next(reason for reason, found in problems.items() if found[0])
        raise DataError(f"{where} has no row that can be used; the first has {reason}")
    columns = {column: coded.take(rows) for column, coded in gathered.columns.items()}
    if roles.label is None:
        found = _column_a_class(table, roles, columns)
    else:
        names = tuple(map(_clean, table.class_names.get(roles.label, ()))) or None
        found = _one_column(columns[roles.label], names, where)
    problems["no label"] = np.isin(np.arange(number), rows[found.missing])
    splits, split_notes = _splits(roles, columns, len(rows), where)
    others = roles.others if roles.label is not None else ()
    extra = {column: _facet(columns[column]) for column in others if column in columns}
    ignored, row_notes = _left_out(problems, name)
    notes = (roles.note(where), *split_notes, *found.notes, *row_notes)
    labels = Labels(found.classes, found.targets, splits, ignored, extra, notes)
    kept = np.flatnonzero(~found.missing)
    return labels.take(kept), rows[kept]


def _problems(roles: Roles, gathered: Gathered) -> dict[str, NDArray[np.bool_]]:
    """Reason -> (N,) bool, the rows that cannot be used whatever their label."""
    if gathered.paths is None:
        return {}
    no_path = gathered.paths.lengths() == 0
    repeated = (gathered.first != np.arange(len(gathered.first))) & ~no_path
    differs = np.zeros(len(repeated), bool)
    for column in (roles.label,) if roles.label is not None else roles.others:
        if column in gathered.columns:
            codes = gathered.columns[column].codes
            differs |= codes != codes[gathered.first]
    return {
        "no path": no_path,
        "an earlier row has the same path": repeated & ~differs,
        "an earlier row has the same path with another label; several labels of an image belong in one cell, "
        "as cat|dog": repeated & differs,
    }


def _left_out(problems: dict[str, NDArray[np.bool_]], name: Callable[[int], str]) -> tuple[tuple[str, ...], ...]:
    """What to record of the rows that are left out, and what to say."""
    ignored, notes = [], []
    for reason, rows in problems.items():
        found = np.flatnonzero(rows).tolist()
        ignored += [f"{name(row)}: {reason}" for row in found]
        if found:
            notes.append(f"{len(found):,} row(s) left out: {reason}; the first is {name(found[0])}")
    return tuple(ignored), tuple(notes)


def _column_a_class(table: Table, roles: Roles, columns: dict[str, Coded]) -> _Targets:
    coded = [columns.get(name) for name in roles.others]
    if len(coded) < 2:
        raise no_label(table.header)
    present = []
    for column in coded:
        if column is None or not all(value in _YES_NO for value in column.values):
            raise no_label(table.header)
        present.append(np.array([_YES_NO[str(value)] for value in column.values], np.uint8)[column.codes])
    targets = np.stack(present, axis=1)
    note = f"one column a class: multi-label, {len(coded)} classes"
    if (targets.sum(1) == 1).all():
        note += " (every image has exactly one: one column of labels would make the classes exclude each other)"
    return _without_unseen(tuple(map(_clean, roles.others)), targets, (note,), table.header.where)


def _one_column(column: Coded, names: tuple[str, ...] | None, where: str) -> _Targets:
    if any(isinstance(value, tuple) for value in column.values):
        lists = [(value,) if isinstance(value, str) else value for value in column.values]
        return _several(column, lists, names, where, "lists of labels")
    texts = [str(value) for value in column.values]
    separator = None if names else find_separator(texts, column.counts())
    if separator is not None:
        lists = [tuple(text.split(separator)) for text in texts]
        return _several(column, lists, None, where, f"labels separated by '{separator}'")
    clean = [_clean(text) for text in texts]
    classes = _in_order({text for text in clean if text}, names)
    if len(classes) < 2:
        only = f"only one class, '{classes[0]}': a classifier needs at least two" if classes else "no row with a label"
        raise DataError(f"{where} has {only}")
    positions = {name: number for number, name in enumerate(classes)}
    targets = np.array([positions[text] if text else 0 for text in clean], np.int64)[column.codes]
    missing = np.array([not text for text in clean])[column.codes]
    return _Targets(classes, targets, missing, _unseen(names, classes))


def _several(
    column: Coded, lists: Sequence[tuple[str, ...]], names: tuple[str, ...] | None, where: str, what: str
) -> _Targets:
    clean = [{text for part in parts if (text := _clean(part))} for parts in lists]
    classes = _in_order(set().union(*clean), names)
    positions = {name: number for number, name in enumerate(classes)}
    present = np.zeros((len(clean), len(classes)), np.uint8)
    for row, parts in enumerate(clean):
        present[row, [positions[part] for part in parts]] = 1
    notes = (f"{what}: multi-label, {len(classes)} classes", *_unseen(names, classes))
    return _without_unseen(classes, present[column.codes], notes, where)


def _without_unseen(names: tuple[str, ...], targets: NDArray[np.uint8], notes: tuple[str, ...], where: str) -> _Targets:
    """Drops the classes that no image has: nothing can be learnt of them."""
    seen = targets.sum(axis=0) > 0
    classes = tuple(name for name, is_seen in zip(names, seen, strict=True) if is_seen)
    if not classes:
        raise DataError(f"{where} has no row with a label")
    notes = (*notes, *_unseen(names, classes))
    return _Targets(classes, targets[:, seen], np.zeros(len(targets), bool), notes)


def _unseen(names: tuple[str, ...] | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    absent = [name for name in names or () if name not in classes]
    return (f"no image has the class {shorten(absent)}: left out",) if absent else ()


def find_separator(values: Sequence[str], counts: Sequence[int]) -> str | None:
    """The separator between labels, by the rule above; None where every cell is one name.

    Args:
        values: the different cells.
        counts: how many images have each.
    """
    cells = [(value, count) for value, count in zip(values, counts, strict=True) if value.strip()]
    total = sum(count for _, count in cells)
    for separator in SEPARATORS:
        parts = [[part.strip() for part in value.split(separator)] for value, _ in cells]
        several = sum(count for own, (_, count) in zip(parts, cells, strict=True) if len(own) > 1)
        if several < max(2, total / 100) or not all(map(all, parts)):
            continue
        alone = {own[0] for own in parts if len(own) == 1}
        company = {part for own in parts if len(own) > 1 for part in own}
        if len(alone | company) < len(cells) or 2 * len(alone & company) >= len(company):
            return separator
    return None


def _in_order(found: set[str], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Classes in the file's own order; else whole numbers by value, and texts by the alphabet."""
    if names is not None:
        return tuple(dict.fromkeys(name for name in names if name in found))
    if all(re.fullmatch("-?[0-9]{1,18}", name) for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _clean(cell: Cell) -> str:
    return readable(str(cell).strip())


def _facet(column: Coded) -> Facet:
    return Facet(tuple("|".join(v) if isinstance(v, tuple) else readable(v) for v in column.values), column.codes)


def _splits(
    roles: Roles, columns: dict[str, Coded], number: int, where: str
) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """(N,) str, and what to say of it."""
    nothing = np.full(number, "")
    if roles.split is None:
        return nothing, ()
    column = columns[roles.split]
    words = [str(value).strip().lower() for value in column.values]
    unknown = [str(value) for value, word in zip(column.values, words, strict=True) if word not in SPLITS]
    if not unknown:
        return np.array([SPLITS[word] for word in words], np.str_)[column.codes], ()
    if roles.split_is_sure:
        raise DataError(f"{where}: '{unknown[0]}' in the column '{roles.split}' is none of train, val and test")
    return nothing, (f"the column '{roles.split}' holds '{unknown[0]}': not taken for splits",)
