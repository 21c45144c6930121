"""Several runs on one page, from the reports that they keep."""

from pathlib import Path

from linnaeus.app.compare import Told
from linnaeus.app.progress import Display
from linnaeus.app.report import DATA, read_report, report
from linnaeus.core.errors import RequestError
from linnaeus.core.files import write_text
from linnaeus.report.comparison_page import comparison_page
from linnaeus.report.record import Record


def write_comparison(folders: list[Path], told: list[Told], page: Path, *, device: str, display: Display) -> None:
    """Writes the page; a run without a report, or one that was not timed, gets it first."""
    names = [folder.resolve().name for folder in folders]
    names = names if len({*names}) == len(names) else [str(folder) for folder in folders]
    runs = [(name, _record(folder, device, display)) for name, folder in zip(names, folders, strict=True)]
    write_text(page, comparison_page(runs, [pair.lines() for pair in told]))


def check_page(page: Path) -> None:
    """Refuses what cannot be the name of a file before any work is done for it.

    Raises:
        RequestError: if `page` lies in no folder, or is something else than a file.
    """
    if not page.parent.is_dir() or (page.exists() and not page.is_file()):
        raise RequestError(f"--page {page}: expected the name of a file in a folder that exists")


def _record(folder: Path, device: str, display: Display) -> Record:
    if (folder / DATA).is_file() and (kept := read_report(folder)).speed is not None:
        return kept
    return report(folder, device=device, display=display)[1]
