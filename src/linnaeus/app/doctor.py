"""The doctor on its own: what is wrong with a set of images, on a terminal and as a page."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from linnaeus.app.config import DataConfig
from linnaeus.app.prepare import columns, examine
from linnaeus.app.progress import Display
from linnaeus.core.errors import DataError, RequestError
from linnaeus.core.files import write_text
from linnaeus.data.decode import UnreadableImage
from linnaeus.data.findings import KINDS, Diagnosis, printable
from linnaeus.data.sources import Source, open_source
from linnaeus.report.doctor_page import doctor_page


def doctor(config: DataConfig, *, page: Path, display: Display) -> Diagnosis:
    """Examines a set of images, shows the findings and writes them with pictures into an HTML page.

    Raises:
        RequestError: if there is no such set, or `page` cannot be the name of a file.
        DataError: if it cannot be used at all; the page is written if there are images.
    """
    if not page.parent.is_dir() or page.is_dir():
        raise RequestError(f"--page {page}: expected the name of a file in a folder that exists")
    source = open_source(config.source, columns(config))
    _, diagnosis = examine(source, config, display)
    write_text(page, doctor_page(config.source, diagnosis.to_json(), lambda index: _picture(source, index)))
    display.show(_table(diagnosis))
    display.show(f"Verdict: {diagnosis.verdict}. With pictures: {page}")
    if diagnosis.verdict == "unusable":
        errors = [printable(finding.reason) for finding in diagnosis.findings if finding.severity == "error"]
        raise DataError(f"{config.source} cannot be used: {' '.join(errors)} See {page}")
    return diagnosis


def _picture(source: Source, index: int) -> NDArray[np.uint8] | None:
    try:
        return source.decode(source.read(index))
    except (UnreadableImage, OSError):
        return None


def _table(diagnosis: Diagnosis) -> Table:
    table = Table(title=f"{len(diagnosis.case.labels):,} images", title_justify="left")
    for column in ("", "finding", "what was found"):
        table.add_column(column, overflow="fold")
    for finding in diagnosis.to_json()["findings"]:
        table.add_row(finding["severity"], KINDS[finding["kind"]].title, finding["reason"])
    return table
