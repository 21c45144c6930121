"""The doctor on its own: what is wrong with a set of images, on a terminal and as a page."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

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
    # A file that is written atomically takes the place of whatever has its name: even of a device.
    if not page.parent.is_dir() or (page.exists() and not page.is_file()):
        raise RequestError(f"--page {page}: expected the name of a file in a folder that exists")
    source = open_source(config.source, columns(config), bar=display.bar)
    _, diagnosis = examine(source, config, display)
    write_page(page, config.source, source, diagnosis)
    display.show(_table(diagnosis) if diagnosis.findings else f"{len(diagnosis.case.labels):,} images, no findings")
    display.show(f"Verdict: {diagnosis.verdict}. With pictures: {page}")
    if diagnosis.verdict == "unusable":
        errors = [printable(finding.reason) for finding in diagnosis.findings if finding.severity == "error"]
        raise DataError(f"{config.source} cannot be used: {' '.join(errors)} See {page}")
    return diagnosis


def write_page(page: Path, title: str, source: Source, diagnosis: Diagnosis, *, remark: str = "") -> None:
    """Writes the findings as a page with pictures of the images; `title` is what the user calls them."""
    content = doctor_page(printable(title), diagnosis.to_json(), lambda index: _picture(source, index), remark=remark)
    write_text(page, content)


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
        # As text: the name of a class may look like markup.
        table.add_row(finding["severity"], KINDS[finding["kind"]].title, Text(finding["reason"]))
    return table
