"""What training leaves out, with reasons, and the list of it that a person may edit.

The list is a CSV file with the columns `path` and `reason`. A line that a person deletes brings that image back; a line
that a person adds leaves one out. It lies beside the results, never among the images.
"""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from linnaeus.core.errors import RequestError
from linnaeus.core.files import write_text
from linnaeus.data.findings import KINDS, Diagnosis, printable

COLUMNS = ("path", "reason")


def to_quarantine(diagnosis: Diagnosis) -> dict[int, str]:
    """Position -> reasons, for the files of the findings whose kind is quarantined in `KINDS`."""
    reasons: dict[int, list[str]] = {}
    for finding in diagnosis.findings:
        for position, reason in finding.files.items() if KINDS[finding.kind].quarantined else ():
            reasons.setdefault(position, []).append(f"{KINDS[finding.kind].title.lower()}: {reason}")
    return {position: "; ".join(reasons[position]) for position in sorted(reasons)}


def write_quarantine(path: Path, reasons: Mapping[int, str], name: Callable[[int], str]) -> None:
    """Writes the list, atomically; `name` is the source's."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a name with a "\r" is torn
    writer.writerow(COLUMNS)
    for position, reason in reasons.items():
        writer.writerow([printable(name(position)), printable(reason)])
    write_text(path, table.getvalue())


def read_quarantine(path: Path, count: int, name: Callable[[int], str]) -> tuple[dict[int, str], list[str]]:
    """Reads the list for the `count` images of a source.

    Returns:
        Position -> reason, and the paths that are not in the source, as when an image was deleted.

    Raises:
        RequestError: if it is missing, or no such list.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
            fields = rows[0].keys() if rows else COLUMNS
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no quarantine list: {error}") from None
    if COLUMNS[0] not in fields:
        raise RequestError(
            f"{path} is no quarantine list: its columns are {', '.join(map(str, fields))}, not path, reason"
        )
    listed = {row["path"]: row.get("reason") or "listed in the quarantine" for row in rows}
    names = (printable(name(position)) for position in range(count)) if listed else ()
    found = {position: listed.pop(text) for position, text in enumerate(names) if text in listed}
    return found, list(listed)
