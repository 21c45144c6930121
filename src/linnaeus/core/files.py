"""Files that survive: written atomically, checked by content, with their format's name and version inside."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linnaeus.core.errors import EnvironmentFault, RequestError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; when the block succeeds, that file becomes `path`, whole and on disk.

    A reader sees the old file or the new one and never a part of either, also after a crash or a loss of power.

    Raises:
        RequestError: if `path` is something else than a file, such as /dev/null, which would be replaced like one.
    """
    if path.exists() and not path.is_file():
        raise RequestError(f"{path} is a folder or a device: expected the name of a file")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(
            0o666 & ~_umask()
        )  # mkstemp makes files private; a run is as readable as the user's other files
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, kind: str, version: int, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON, atomically, headed by the format's name and version."""
    header = {"format": kind, "version": version}
    write_text(path, json.dumps({**header, **content}, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Raises:
        RequestError: if the file is missing or of another format.
        EnvironmentFault: if it is damaged or of a newer version than this one can read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != kind:
        raise RequestError(f"{path} is not a '{kind}' file")
    _check_version(path, content.get("version"), version)
    return content


def save_tensors(path: Path, kind: str, version: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON-able description as one safetensors file, atomically, with a checksum of both.

    Raises:
        EnvironmentFault: if it cannot be written, as on a full disk.
    """
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**about, "format": kind, "version": version}, sort_keys=True)
    with atomic(path) as temporary:
        try:
            save_file(ready, temporary, metadata={"about": text, "sha256": _digest(ready, text)})
        except SafetensorError as error:
            raise EnvironmentFault(f"{path} cannot be written: {error}") from None


def load_tensors(path: Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote: the tensors, on the CPU, and the description.

    Raises:
        RequestError: if the file is missing or of another format.
        EnvironmentFault: if it is torn, altered, or of a newer version than this one can read.
    """
    tensors, metadata = _open(path, kind)
    if metadata.get("sha256") != _digest(tensors, metadata["about"]):
        raise EnvironmentFault(f"{path} is damaged: its content does not match its checksum")
    return tensors, _about(path, metadata, kind, version)


def map_tensors(path: Path, kind: str, version: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `load_tensors` for a large file, of which only what is looked at is read from the disk.

    So the checksum, which takes all bytes, is not compared; a file that is too short is noticed. What is written into
    such a tensor stays in this process, and costs memory for the pages that it touches.
    """
    tensors, metadata = _open(path, kind)
    return tensors, _about(path, metadata, kind, version)


def _open(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, mapped from the disk, and the metadata."""
    if not path.is_file():
        raise RequestError(f"{path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise EnvironmentFault(f"{path} is damaged: {error}") from None
    if "about" not in metadata:
        raise RequestError(f"{path} is not a '{kind}' file")
    return tensors, metadata


def _about(path: Path, metadata: Mapping[str, str], kind: str, version: int) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(metadata["about"])
    if about.get("format") != kind:
        raise RequestError(f"{path} is a '{about.get('format')}' file, and a '{kind}' file was expected")
    _check_version(path, about.get("version"), version)
    return about


def _check_version(path: Path, found: object, known: int) -> None:
    if not isinstance(found, int) or found > known:
        raise EnvironmentFault(
            f"{path} has format version {found}, and this Linnaeus reads up to version {known}: update Linnaeus"
        )


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """sha256 over the description and, in the order of their names, each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def user_cache(name: str) -> Path:
    """The folder `name` in the user's cache of Linnaeus, which may not exist yet; LINNAEUS_CACHE moves that cache."""
    if own := os.environ.get("LINNAEUS_CACHE"):
        return Path(own).expanduser() / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linnaeus" / name
