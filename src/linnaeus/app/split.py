"""The roles of a set's images as a table, to be looked at, kept under version control, and trained on."""

import csv
import glob
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from linnaeus.app.config import DataConfig
from linnaeus.app.prepare import Prepared, prepare
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, RequestError
from linnaeus.core.files import atomic
from linnaeus.data.sources import open_source
from linnaeus.data.sources.files import FileSource


def split(config: DataConfig, out: Path, *, seed: int, display: Display) -> Prepared:
    """Gives every image its role, as training would, and writes them as a table with the columns path, label and split.

    `linnaeus train` with that table takes the roles as they are. Images without a role (unreadable, quarantined, copies
    across roles) have no row. Paths are relative to the table.

    Raises:
        RequestError: if `out` cannot be the name of a new table, or the images are not files of their own.
        DataError: as preparing a run raises.
    """
    if out.suffix.lower() != ".csv" or not out.parent.is_dir() or out.exists():
        raise RequestError(f"{out}: expected the name of a new file in a folder that exists, ending in .csv")
    if glob.has_magic(config.source) and not Path(config.source).exists():
        raise RequestError(f"{config.source}: expected a folder or a table, not a pattern")
    prepared = prepare(config, seed=seed, display=display)
    if not isinstance(prepared.source, FileSource):
        raise RequestError(
            f"the images of {config.source} are not files of their own, so that no table can name them: "
            "`linnaeus data pack` keeps their splits"
        )
    _write(out, _rows(prepared, config, out))
    _check(out, prepared)
    for line in prepared.summary():
        display.show(line)
    display.show(f"Train on it: linnaeus train {out}")
    return prepared


def to_json(prepared: Prepared, out: Path) -> dict[str, Any]:
    """What was written, JSON-ready: the images of each role, and those left out, with reasons."""
    roles, counts = np.unique(prepared.split.roles[prepared.split.roles != ""], return_counts=True)
    left_out = {**prepared.audit.broken, **prepared.split.left_out}
    return {
        "table": str(out),
        "images": dict(zip(roles.tolist(), counts.tolist(), strict=True)),
        "carved": list(prepared.split.carved),
        "left_out": {prepared.source.name(index): reason for index, reason in sorted(left_out.items())},
    }


def _rows(prepared: Prepared, config: DataConfig, out: Path) -> list[list[str]]:
    source, roles = prepared.source, prepared.split.roles
    given = Path(config.source)
    root = given if given.is_dir() else given.parent
    here = out.parent.resolve()
    rows = []
    for index in np.flatnonzero(roles != "").tolist():
        name = source.name(index)
        path = name if os.path.isabs(name) else os.path.relpath(root.resolve() / name, here)  # noqa: PTH117  # bytes
        rows.append([path, source.labels.text(index), str(roles[index])])
    return rows


def _write(out: Path, rows: list[list[str]]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a name with a "\r" is torn
    writer.writerows([["path", "label", "split"], *rows])
    with atomic(out) as temporary:  # names need not be UTF-8: their bytes are written as they are
        temporary.write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))


def _check(out: Path, prepared: Prepared) -> None:
    """Reads the table back: a class called `cat|dog` in every second cell would look like two classes."""
    read, labels = open_source(str(out)).labels, prepared.source.labels.take(np.flatnonzero(prepared.split.roles != ""))
    texts = [[each.text(index) for index in range(len(each))] for each in (read, labels)]
    if read.task != labels.task or texts[0] != texts[1]:
        out.unlink()
        raise DataError(
            f"the classes of this set cannot be told from their names in a table ({', '.join(labels.classes[:3])}): "
            "rename those that hold | ; or ,"
        )
