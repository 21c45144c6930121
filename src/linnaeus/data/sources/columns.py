"""Which column of a table is what: named by the user, or known by a usual name."""

from collections.abc import Sequence
from dataclasses import dataclass

from linnaeus.core.errors import DataError, RequestError

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABELS = ("label", "labels", "class", "class_name", "category", "target", "tags")
SPLITS = ("split", "set", "subset")


@dataclass(frozen=True)
class Columns:
    """The user's word on the columns; None leaves a column to be found by its name.

    Attributes:
        path: the column with the images' paths, or in Parquet with the images themselves.
        label: the column with the classes.
        split: the column with the splits.
    """

    path: str | None = None
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Roles:
    """What each column of one table is.

    Attributes:
        path: the column of the images.
        label: the column of the classes; None where every further column is a class.
        split: the column of the splits, if any.
        split_is_sure: whether the user named it.
        others: all further columns.
    """

    path: str
    label: str | None
    split: str | None
    split_is_sure: bool
    others: tuple[str, ...]

    def note(self, where: str) -> str:
        """The roles in one line."""
        label = f"label in '{self.label}'" if self.label else f"one column a class: {shorten(self.others)}"
        split = f", split in '{self.split}'" if self.split else ""
        return f"{where}: image in '{self.path}', {label}{split}"


@dataclass(frozen=True)
class Header:
    """The columns of one table.

    Attributes:
        where: what messages call the table.
        columns: their names, in order.
        images, labels: columns that the file itself says hold images, or classes; known before any name is tried.
    """

    where: str
    columns: tuple[str, ...]
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def assign(columns: Columns, header: Header) -> Roles:
    """Finds the role of every column.

    A column without the user's word has a role by its name, whatever its case: `PATHS`, `LABELS` and `SPLITS`, with
    spaces and hyphens for underscores.

    Raises:
        RequestError: if a named column does not exist, two could have one role, or none holds the images.
        DataError: if two columns have one name.
    """
    where = header.where
    twice = [name for number, name in enumerate(header.columns) if name in header.columns[:number]]
    if twice:
        raise DataError(f"{where} has two columns called '{twice[0]}': rename one")
    path = _find(columns.path, header.images or _named(PATHS, header), header, "path")
    if path is None:
        raise RequestError(f"{where} has no column of paths ({', '.join(PATHS)}). {_advice(header, 'path')}")
    label = _find(columns.label, _named(LABELS, header) or header.labels, header, "label")
    split = _find(columns.split, _named(SPLITS, header), header, "split")
    if len({path, label, split} - {None}) < 1 + (label is not None) + (split is not None):
        raise RequestError(f"{where}: one column cannot be two things: {path}, {label}, {split}")
    others = tuple(name for name in header.columns if name not in (path, label, split))
    return Roles(path, label, split, columns.split is not None, others)


def names_images(columns: Columns, header: Header) -> bool:
    """Whether a table has a column of images, or the user says so."""
    return columns.path is not None or bool(header.images or _named(PATHS, header))


def no_label(header: Header) -> RequestError:
    """The error for a table whose classes were not found."""
    return RequestError(
        f"{header.where} has no column of labels ({', '.join(LABELS)}), and its further columns are not one column a "
        f"class, with 0 or 1 in every row. {_advice(header, 'label')}"
    )


def shorten(names: Sequence[str], limit: int = 10) -> str:
    """The first names, with commas, and how many more there are."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _find(given: str | None, found: tuple[str, ...], header: Header, role: str) -> str | None:
    if given is not None:
        if given not in header.columns:
            raise RequestError(f"{header.where} has no column '{given}'. {_advice(header, role)}")
        return given
    if len(found) > 1:
        raise RequestError(
            f"{header.where} has several columns for the {role}: {', '.join(found)}. {_advice(header, role)}"
        )
    return found[0] if found else None


def _named(known: tuple[str, ...], header: Header) -> tuple[str, ...]:
    return tuple(n for n in header.columns if n.strip().lower().replace(" ", "_").replace("-", "_") in known)


def _advice(header: Header, role: str) -> str:
    return f"Its columns are: {shorten(header.columns, 20)}. Choose with --{role}-column"
