"""Every kind of source, opened by one verb."""

from pathlib import Path

from linnaeus.core.errors import RequestError
from linnaeus.data.sources.animals import open_animals
from linnaeus.data.sources.base import Labels as Labels
from linnaeus.data.sources.base import Source as Source
from linnaeus.data.sources.folder import open_folder

NAMED = {"animals": open_animals}
"""Sets that need no path."""


def open_source(data: str) -> Source:
    """Opens what a user calls DATA: the name of a built-in set, or a folder of class folders.

    Raises:
        RequestError: if there is nothing of that name.
        DataError: if it cannot be used.
    """
    if data in NAMED and not Path(data).exists():
        return NAMED[data]()
    if not Path(data).exists():
        raise RequestError(f"'{data}' is neither a folder nor a built-in set ({', '.join(NAMED)})")
    return open_folder(Path(data))
