"""What `benchmark` sets beside each other: the ways of running a network, and the artefacts that were made of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.core.device import autocast
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.preprocess import Preprocess
from linnaeus.deploy.artefact import ABOUT, load_artefact, read_artefact
from linnaeus.deploy.benchmark import Answer
from linnaeus.deploy.bundle import Bundle, load_bundle
from linnaeus.engine.autotune import Way, arrange, candidates
from linnaeus.engine.guard import compile_in_place
from linnaeus.metrics.intervals import Interval

EXPORTS = "exports"
COMPILED = "compiled"
LEFT_OUT = "exported artefacts run on the CPU and are left out here; --device cpu times them beside the network"
SAME = ("architecture", "classes", "preprocess", "calibration", "tta", "metrics")
"""Parts of `model.json` that are the same in a model and in what was exported of it."""


@dataclass(frozen=True)
class Contender:
    """One way to have images classified.

    Attributes:
        name: unique among all that are timed together.
        way: its name within its run.
        open: loads it; can be pickled.
        size: bytes on the disk of what is loaded.
        accuracy: on test images, where it is known for this arithmetic.
        artefact: its folder; None for a network in PyTorch.
        may_win: whether its answers were found to be good enough.
        is_asked: whether it must not be left out: the plainest way of a network, or an artefact that a person named.
    """

    name: str
    way: str
    open: Callable[[], Answer]
    size: int
    accuracy: Interval | None
    artefact: Path | None = None
    may_win: bool = True
    is_asked: bool = True


@dataclass(frozen=True)
class Group:
    """All contenders that are one classifier; the first is what the others are compared with.

    Attributes:
        folder: of the run or the model; of an artefact that was named without it, its own.
        title: the network in words.
        shape: (C, S, S) of an image.
        is_network: whether the run or the model was named, rather than artefacts alone.
    """

    folder: Path
    title: str
    shape: tuple[int, int, int]
    is_network: bool
    contenders: tuple[Contender, ...]


def gather(paths: Sequence[Path], device: torch.device, note: Callable[[str], None]) -> list[Group]:
    """The contenders behind runs, models and artefacts, a group a classifier.

    Args:
        note: is told what is left out.

    Raises:
        RequestError: if a path is none of these, or images of the paths differ in their shape.
        EnvironmentFault: if what a path names is damaged.
    """
    owners: dict[Path, list[Path]] = {}
    for path in paths:
        owner = _owner(path)
        if path not in owners.setdefault(owner, []):
            owners[owner].append(path)
    labels = shortest(list(owners))
    groups = [_group(owner, named, labels[owner], device, note) for owner, named in owners.items()]
    first = groups[0]
    for other in groups[1:]:
        if other.shape != first.shape:
            raise RequestError(
                f"{first.folder} takes images of {_times(first.shape)}, and {other.folder} of {_times(other.shape)}: "
                "only what takes the same images can be timed together; time them one by one"
            )
    return groups


def is_artefact(path: Path) -> bool:
    """Whether a path is an artefact, or a file in it."""
    return (path / ABOUT).is_file() or (path.is_file() and (path.parent / ABOUT).is_file())


def shortest(folders: Sequence[Path]) -> dict[Path, str]:
    """Folder -> as many of the last parts of its path as tell it from the others; "" where there is only one."""
    if len(folders) == 1:
        return {folders[0]: ""}
    whole = {folder: folder.resolve().parts for folder in folders}
    for number in range(1, max(map(len, whole.values()))):
        names = {folder: "/".join(parts[-number:]) for folder, parts in whole.items()}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: str(folder) for folder in folders}


def _owner(path: Path) -> Path:
    """The run or model that a path belongs to; the path itself of an artefact that lies elsewhere."""
    if not is_artefact(path):
        return path
    folder = path if path.is_dir() else path.parent
    return folder.parent.parent if folder.resolve().parent.name == EXPORTS else folder


def _group(owner: Path, named: Sequence[Path], label: str, device: torch.device, note: Callable[[str], None]) -> Group:
    """What was named of one run or model."""
    artefacts = {(path if path.is_dir() else path.parent).resolve(): path for path in named if is_artefact(path)}
    prefix = f"{label}/" if label else ""
    if owner not in named or is_artefact(owner):
        read = [_read_timed(path) for path in artefacts.values()]
        about = read[0][1]["model"]
        contenders = tuple(_artefact(prefix, *each, is_asked=True) for each in read)
        return Group(owner, about["architecture"]["name"], _shape(about), False, contenders)
    bundle = load_bundle(owner)
    networks = _networks(prefix, owner, bundle, device)
    exported = tuple(_exported(prefix, owner, bundle, set(artefacts), note)) if _has_exports(owner) else ()
    if exported and device.type != "cpu":
        note(LEFT_OUT)
        exported = ()
    count = sum(parameter.numel() for parameter in bundle.model.parameters())
    title = f"{bundle.about['architecture']['name']}, {count / 1e6:,.2f} M parameters"
    return Group(owner, title, _shape(bundle.about), True, (*networks, *exported))


def _has_exports(folder: Path) -> bool:
    return (folder / EXPORTS).is_dir()


def _networks(prefix: str, folder: Path, bundle: Bundle, device: torch.device) -> tuple[Contender, ...]:
    """A network as it is, in other layouts and precisions, and compiled, which comes last since it takes long."""
    ways = candidates(device, None, None)
    weights = folder / "model" / "model.safetensors"
    size = (weights if weights.is_file() else folder / "model.safetensors").stat().st_size
    accuracy = _accuracy(bundle.about)
    return tuple(
        Contender(
            name=f"{prefix}{_words(way)}",
            way=_words(way),
            open=partial(open_way, folder, device, way),
            size=size,
            accuracy=accuracy if way.precision == "fp32" else None,
            is_asked=way == ways[0],
        )
        for way in (*ways, ways[-1]._replace(compiled=True))
    )


def _words(way: Way) -> str:
    """`eager`, `eager bf16`, `compiled bf16 nhwc`: channels last in memory."""
    words = [COMPILED if way.compiled else "eager"]
    words += ["bf16"] if way.precision == "bf16" else []
    words += ["nhwc"] if way.channels_last else []
    return " ".join(words)


def _exported(
    prefix: str, folder: Path, bundle: Bundle, asked: set[Path], note: Callable[[str], None]
) -> Iterator[Contender]:
    """The artefacts of a run; what cannot be used is told of and left out, unless it was named."""
    for place in sorted((folder / EXPORTS).iterdir()):
        if not is_artefact(place) or place.name.startswith("."):
            continue
        is_asked = place.resolve() in asked
        try:
            _, content = _read_timed(place)
            if not is_of(content, bundle.about):
                raise RequestError(f"{place} was exported of another state of the model: export it again")
        except (RequestError, EnvironmentFault) as error:
            if is_asked:
                raise
            note(f"left out: {error}")
        else:
            yield _artefact(prefix, place, content, is_asked=is_asked)


def _read_timed(path: Path) -> tuple[Path, dict[str, Any]]:
    """As `read_artefact`. Raises `RequestError` besides where an artefact takes images of any size."""
    folder, content = read_artefact(path)
    if content.get("takes") == "any":
        raise RequestError(f"{folder} takes images of any size, and how fast it is depends on theirs: it is not timed")
    return folder, content


def is_of(content: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    """Whether `artefact.json` is of the classifier of a `model.json`."""
    return all(content["model"].get(part) == about.get(part) for part in SAME)


def _artefact(prefix: str, folder: Path, content: Mapping[str, Any], *, is_asked: bool) -> Contender:
    score = (content.get("gate") or {}).get("score")
    return Contender(
        name=f"{prefix}{content['name']}",
        way=content["name"],
        open=partial(open_artefact, folder),
        size=sum(file["bytes"] for name, file in content["files"].items() if name.startswith("model")),
        accuracy=Interval(**score["accuracy"]) if score else None,
        artefact=folder,
        may_win=(content.get("gate") or {}).get("outcome") in ("delivered", "warned"),
        is_asked=is_asked,
    )


def _accuracy(about: Mapping[str, Any]) -> Interval | None:
    """Of `model.json`, as the gate counts it: where an image may have several classes, the answers right in all."""
    found = about.get("metrics", {}).get("top1" if about["task"] == "single" else "exact_match")
    return Interval(**found) if isinstance(found, dict) else None


def _shape(about: Mapping[str, Any]) -> tuple[int, int, int]:
    preprocess = Preprocess.from_json(about["preprocess"])
    side = preprocess.geometry.image_size
    return preprocess.channels, side, side


def _times(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def open_way(folder: Path, device: torch.device, way: Way) -> Answer:
    """A model as it is run by one way."""
    bundle = load_bundle(folder).to(device)
    arrange(bundle.model, channels_last=way.channels_last)
    if way.compiled:
        compile_in_place(bundle.model)

    def answer(images: Tensor) -> Tensor:
        with autocast(device, way.precision):
            return bundle.probabilities(images)

    return answer


def open_artefact(folder: Path) -> Answer:
    """An artefact in its runtime."""
    return load_artefact(folder).probabilities
