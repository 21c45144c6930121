"""A finished model judged again: on its own test images, or on others."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.config import Config, make_config
from linnaeus.app.deliver import score
from linnaeus.app.images import evaluation_loader
from linnaeus.app.prepare import columns as columns_of
from linnaeus.app.prepare import image_name, read_roles
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.sources import Columns, Labels, Source, open_source
from linnaeus.data.sources.labels import SEPARATORS
from linnaeus.data.sources.subset import Subset
from linnaeus.deploy.bundle import load_bundle
from linnaeus.metrics.multilabel import MultiScores
from linnaeus.metrics.scores import Scores


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        what: the images in words.
        confusion: (K, K) counts, rows the truth; None where images may have several classes.
        unreadable: name -> reason, for images that were not counted.
    """

    what: str
    classes: tuple[str, ...]
    scores: Scores | MultiScores
    confusion: NDArray[np.int64] | None
    unreadable: dict[str, str]


def evaluate(
    folder: Path,
    data: str | None,
    *,
    columns: Columns = Columns(),  # noqa: B008  # frozen
    split: str | None,
    device: str,
    display: Display,
) -> Evaluation:
    """Scores a run or a model on `data`, or a run on its own test images.

    Args:
        folder: of a run, or of a model where `data` is given.
        data: as for training; its classes are matched to the model's by name.
        columns: of `data`, where it is a table.
        split: which split of `data`; by default test, or val, or all images where it has no splits.

    Raises:
        RequestError: if a class of `data` is unknown to the model, its images have several classes and the model gives
            one, or there is no such split.
        DataError: if no image can be read, or none has a class.
    """
    bundle = load_bundle(folder)
    if data is None:
        source, what = _own_images(Run(folder), split or "test")
        config = Run(folder).read_config()
    else:
        source, what = _other_images(data, columns, split)
        config = make_config({"data": {"source": data}})
    labels = source.labels
    if labels.task == "multi" and bundle.task == "single":
        raise RequestError(f"{what}: they have several classes each, and the model gives one")
    if labels.task == "single" and bundle.task == "multi":
        display.say(f"{what}: taken for images of several classes, of which those that are not named are absent")
        labels = _as_several(labels, bundle.classes)
    labels = _match(labels, bundle.classes)
    source = _Relabelled(source, labels)
    with display.bar("checking images", len(source.labels)) as advance:
        found = audit(source, keep_below=0, progress=advance)
    unreadable = {source.name(index): reason for index, reason in found.broken.items()}
    for name, reason in list(unreadable.items())[:10]:
        display.say(f"not counted: {name}: {reason}")
    if not len(found.usable):
        raise DataError(f"none of the {len(source.labels)} images of {what} can be read")
    if labels.task == "multi" and not labels.targets[found.usable].any():
        raise DataError(f"none of the {len(found.usable)} images of {what} has a class: there is nothing to score")
    loader = evaluation_loader(source, found.usable, bundle.preprocess, _with_small_batches(config))
    scores, confusion = score(bundle, loader, device=pick(device), display=display)
    return Evaluation(what, bundle.classes, scores, confusion, unreadable)


def _own_images(run: Run, role: str) -> tuple[Source, str]:
    config = run.read_config()
    roles = read_roles(run.data)
    source = open_source(config.data.source, columns_of(config.data))
    chosen = [i for i in range(len(source.labels)) if roles.get(image_name(source, i)) == role]
    expected = sum(r == role for r in roles.values())
    if len(chosen) < expected or not chosen:
        raise DataError(
            f"{config.data.source} has {len(chosen)} of the {expected} images of this run's {role}: put them back"
        )
    return Subset(source, np.array(chosen, np.int64)), f"{role} images of {config.data.source}"


def _other_images(data: str, columns: Columns, split: str | None) -> tuple[Source, str]:
    source = open_source(data, columns)
    present = [name for name in ("test", "val", "train") if (source.labels.splits == name).any()]
    if split is not None and split not in present:
        raise RequestError(f"{data} has no split '{split}': it has {', '.join(present) or 'no splits'}")
    chosen = split or (present[0] if present else "")
    index = np.flatnonzero(source.labels.splits == chosen)
    return Subset(source, index), f"{chosen} images of {data}" if chosen else f"all images of {data}"


def _as_several(labels: Labels, classes: tuple[str, ...]) -> Labels:
    """The labels for a model of several classes, where each was taken for one name.

    So it is with class folders; and with a table in which too few cells hold a separator to show that it is one: a name
    that the model does not know is taken apart.
    """
    parts = [(name,) if name in classes else _apart(name) for name in labels.classes]
    names = tuple(dict.fromkeys(part for own in parts for part in own))
    table = np.array([[name in own for name in names] for own in parts], np.uint8)
    return replace(labels, classes=names, targets=table[labels.targets])


def _apart(name: str) -> tuple[str, ...]:
    separator = next((mark for mark in SEPARATORS if mark in name), "|")
    return tuple(part.strip() for part in name.split(separator))


def _match(labels: Labels, classes: tuple[str, ...]) -> Labels:
    """The same labels with positions in `classes`, by name."""
    unknown = [name for name in labels.classes if name not in classes]
    if unknown:
        raise RequestError(
            f"the model does not know the class '{unknown[0]}'"
            + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            + f": its classes are {', '.join(classes[:10])}{' ...' if len(classes) > 10 else ''}. Rename the classes"
        )
    positions = np.array([classes.index(name) for name in labels.classes], np.int64)
    if labels.task == "single":
        return replace(labels, classes=classes, targets=positions[labels.targets])
    targets = np.zeros((len(labels), len(classes)), np.uint8)
    targets[:, positions] = labels.targets
    return replace(labels, classes=classes, targets=targets)


class _Relabelled:
    """A source with other labels."""

    def __init__(self, source: Source, labels: Labels) -> None:
        self.labels = labels
        self.name, self.stamp = source.name, source.stamp
        self.read, self.decode = source.read, source.decode


def _with_small_batches(config: Config) -> Config:
    return config.replace(train={"batch_size": 32})
