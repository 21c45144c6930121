"""The folder that a run leaves behind."""

import errno
import fcntl
import glob
import os
import platform
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linnaeus import __version__
from linnaeus.app import config as configuration
from linnaeus.app.config import Config, make_config
from linnaeus.core.errors import RequestError
from linnaeus.core.files import read_json, write_json
from linnaeus.data.sources.shard_names import names_shards

CONFIG_KIND = "linnaeus-config"
MANIFEST_KIND, MANIFEST_VERSION = "linnaeus-manifest", 1
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """Paths inside a run's folder, and the two files that describe it."""

    folder: Path

    @property
    def model(self) -> Path:
        """The deliverable."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """The resumable states."""
        return self.folder / "checkpoints"

    @property
    def data(self) -> Path:
        """The index of the images and the findings."""
        return self.folder / "data"

    @property
    def finished(self) -> bool:
        """Whether the deliverable is there."""
        return (self.model / "model.json").is_file()

    def read_config(self) -> Config:
        """The complete configuration.

        Raises:
            RequestError: if the folder is not a run.
        """
        if not (self.folder / "config.json").is_file():
            raise RequestError(f"{self.folder} is not the folder of a run: it holds no config.json")
        content = read_json(self.folder / "config.json", CONFIG_KIND, configuration.VERSION)
        return make_config({key: value for key, value in content.items() if key not in ("format", "version")})

    def write_config(self, config: Config) -> None:
        """Writes the configuration."""
        write_json(self.folder / "config.json", CONFIG_KIND, configuration.VERSION, config.model_dump())

    def read_manifest(self) -> dict[str, Any]:
        """Versions, device, seed and data fingerprint."""
        return read_json(self.folder / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION)

    def write_manifest(self, content: Mapping[str, Any]) -> None:
        """Writes the manifest, with this machine's versions."""
        write_json(self.folder / "manifest.json", MANIFEST_KIND, MANIFEST_VERSION, {**_versions(), **content})


def check_free(out: Path | None) -> None:
    """Refuses a folder that is taken before any work is done for it.

    Raises:
        RequestError: if `out` exists and is not an empty folder.
    """
    if out is None or not out.exists() or (out.is_dir() and all(path.name == LOCK for path in out.iterdir())):
        return
    unfinished = (out / "config.json").is_file() and not Run(out).finished
    advice = f", or go on with `linnaeus resume {out}`" if unfinished else ""
    raise RequestError(f"{out} exists already: choose another --out{advice}")


def from_anywhere(data: str) -> str:
    """What a user called DATA, as it is found from any folder: the absolute path of a file, a folder or a pattern."""
    is_local = Path(data).exists() or ("://" not in data and (glob.has_magic(data) or names_shards(data)))
    return os.path.abspath(data) if is_local else data  # noqa: PTH100  # keeps links


def create_run(out: Path | None, data: str, *, parent: str = "runs") -> Run:
    """Makes a new folder: `out`, or the next free `<parent>/<name of the data>-<number>`.

    Raises:
        RequestError: if `out` exists and is not an empty folder, or cannot be made.
    """
    check_free(out)
    try:
        if out is None:
            return Run(_next_free(Path(parent), _short_name(data)))
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out or parent} cannot be made: {error.strerror}") from None
    return Run(out)


@contextmanager
def locked(run: Run) -> Iterator[None]:
    """Keeps a run for this process until the block ends, or the process does, however it ends.

    The lock is the system's own (`fcntl`): it belongs to this process and to none forked from it, so that a killed run
    can be resumed at once though its workers live some seconds longer. The file stays, and means nothing by itself.

    Raises:
        RequestError: if another process has it.
    """
    with (run.folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise  # a file system without locks says so
            file.seek(0)
            owner = file.read().strip()
            raise RequestError(f"{run.folder} is in use by {owner}: wait for it, or stop it first") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def command_line(*words: object) -> str:
    """The command that a person can paste to call this program again, also where its environment is not activated."""
    program = "linnaeus"
    if shutil.which(program) is None:
        program = os.path.relpath(Path(sys.executable).parent / program)
    return shlex.join([program, *map(str, words)])


def _short_name(data: str) -> str:
    """`photos` of /home/me/photos, `labels` of labels.csv, `cats` of hf:someone/cats."""
    path = Path(from_anywhere(data))
    name = path.stem if path.is_file() else path.name
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"


def _next_free(parent: Path, name: str) -> Path:
    parent.mkdir(exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()  # fails if another run took the number a moment ago
        except FileExistsError:
            number += 1
        else:
            return folder


def _versions() -> dict[str, Any]:
    return {
        "linnaeus": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "command": sys.argv,
    }
