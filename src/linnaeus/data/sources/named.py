"""Sets that are known by name: found where they usually lie, or fetched once by torchvision.

Their files are looked for under $LINNAEUS_DATA, `data`, ~/.cache/linnaeus/data and /usr/share/datasets, in the folders
that torchvision, the sets' authors and Debian give them. What is fetched goes to $LINNAEUS_DATA, or without it to
~/.cache/linnaeus/data.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from linnaeus.core.errors import RequestError
from linnaeus.data.sources.arrays import ArraySource
from linnaeus.data.sources.cifar import LAYOUTS, holds_cifar, open_cifar
from linnaeus.data.sources.idx import holds_idx, is_complete, open_idx

VARIABLE = "LINNAEUS_DATA"
_CACHE, _SYSTEM = Path("~/.cache/linnaeus/data"), Path("/usr/share/datasets")
FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""The classes of Fashion-MNIST, which its files only number (https://github.com/zalandoresearch/fashion-mnist)."""


@dataclass(frozen=True)
class Published:
    """A set that its authors publish on the web.

    Attributes:
        folders: where it may lie below a folder of sets; fetched, it goes to the first.
        files: what to fetch by hand where torchvision cannot.
        is_here: whether a folder holds it.
        open: reads the folder.
    """

    folders: tuple[str, ...]
    files: str
    is_here: Callable[[Path], bool]
    open: Callable[[Path], ArraySource]


_IDX = ", ".join(
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
)
PUBLISHED = {
    "mnist": Published(("MNIST/raw", "MNIST", "mnist"), _IDX, is_complete, open_idx),
    "fashion_mnist": Published(
        ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion_mnist"),
        _IDX,
        is_complete,
        partial(open_idx, classes=FASHION),
    ),
    "cifar10": Published(
        ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10"),
        "the files of cifar-10-python.tar.gz",
        holds_cifar,
        open_cifar,
    ),
    "cifar100": Published(
        ("cifar-100-python", "cifar-100-binary", "cifar100"),
        "the files of cifar-100-python.tar.gz",
        holds_cifar,
        open_cifar,
    ),
}


def open_published(name: str) -> ArraySource:
    """Finds a set of `PUBLISHED` on this machine, or fetches it, and reads it into memory.

    Raises:
        RequestError: if it is not here and cannot be fetched.
        DataError: if a file is damaged.
    """
    published = PUBLISHED[name]
    places = [home / folder for home in _homes() for folder in published.folders]
    found = next((place for place in places if place.is_dir() and published.is_here(place)), None)
    folder = found or _fetch(name, _homes()[0] if VARIABLE in os.environ else _CACHE.expanduser())
    source = published.open(folder)
    source.labels = replace(source.labels, notes=(f"{name}: read from {folder}", *source.labels.notes))
    return source


def _homes() -> list[Path]:
    given = os.environ.get(VARIABLE)
    usual = [Path("data"), _CACHE.expanduser(), _SYSTEM]
    return [Path(given).expanduser(), *usual] if given else usual


def _fetch(name: str, home: Path) -> Path:
    """Has torchvision fetch a set, and gives the folder that it lies in. Pickles are unpacked, not read."""
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST  # type: ignore[import-untyped]
    from torchvision.datasets.utils import download_and_extract_archive  # type: ignore[import-untyped]

    folder = home / PUBLISHED[name].folders[0]
    digits = {"mnist": MNIST, "fashion_mnist": FashionMNIST}
    photos = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Fetched beside its place and then moved: half a set never looks like a set.
        with tempfile.TemporaryDirectory(dir=home) as temporary, contextlib.redirect_stdout(sys.stderr):
            if name in digits:
                digits[name](temporary, download=True)
            else:
                kind = photos[name]
                download_and_extract_archive(kind.url, temporary, filename=kind.filename, md5=kind.tgz_md5)
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((Path(temporary) / PUBLISHED[name].folders[0]).iterdir()):
                file.replace(folder / file.name)
    except (OSError, RuntimeError) as error:  # no network, a wrong checksum, no space
        reason = " ".join(str(error).split())
        raise RequestError(
            f"'{name}' is not on this machine and cannot be fetched ({reason}). Put {PUBLISHED[name].files} into "
            f"{folder}; or set {VARIABLE} to the folder that holds {PUBLISHED[name].folders[0]}"
        ) from None
    return folder


def find_binary(folder: Path) -> ArraySource | None:
    """The set in MNIST's or CIFAR's format in a folder, or one level below under a usual name; None if there is none.

    Raises:
        RequestError: if there are several.
        DataError: if a file is damaged.
    """
    places = [folder, *(folder / name for name in ("raw", *LAYOUTS))]
    found = [place for place in places if place.is_dir() and (holds_idx(place) or holds_cifar(place))]
    if len(found) > 1:
        raise RequestError(f"{folder} holds several sets: {', '.join(map(str, found))}. Choose one of them")
    if not found:
        return None
    if holds_cifar(found[0]):
        return open_cifar(found[0])
    is_fashion = any("fashion" in part.lower() for part in found[0].absolute().parts[-2:])
    return open_idx(found[0], FASHION if is_fashion else ())
