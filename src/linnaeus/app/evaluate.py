"""A finished model judged again: on its own test images, or on others."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from linnaeus.app.config import Config, make_config
from linnaeus.app.deliver import evaluate_bundle
from linnaeus.app.images import evaluation_loader
from linnaeus.app.prepare import columns as columns_of
from linnaeus.app.prepare import image_name, read_roles
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.sources import Columns, Labels, Source, open_source
from linnaeus.data.sources.subset import Subset
from linnaeus.deploy.bundle import load_bundle
from linnaeus.metrics.scores import Scores, confusion_array, summarize


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        what: the images in words.
        confusion: (K, K) counts, rows the truth.
        unreadable: name -> reason, for images that were not counted.
    """

    what: str
    classes: tuple[str, ...]
    scores: Scores
    confusion: Any
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
        RequestError: if a class of `data` is unknown to the model, or there is no such split.
        DataError: if no image can be read.
    """
    bundle = load_bundle(folder)
    if data is None:
        source, what = _own_images(Run(folder), split or "test")
        config = Run(folder).read_config()
    else:
        source, what = _other_images(data, columns, split)
        config = make_config({"data": {"source": data}})
    source = _Relabelled(source, _match(source.labels, bundle.classes))
    with display.bar("checking images", len(source.labels)) as advance:
        found = audit(source, keep_below=0, progress=advance)
    unreadable = {source.name(index): reason for index, reason in found.broken.items()}
    for name, reason in list(unreadable.items())[:10]:
        display.say(f"not counted: {name}: {reason}")
    if not len(found.usable):
        raise DataError(f"none of the {len(source.labels)} images of {what} can be read")
    loader = evaluation_loader(source, found.usable, bundle.preprocess, _with_small_batches(config))
    counts = evaluate_bundle(bundle, loader, device=pick(device), display=display)
    return Evaluation(what, bundle.classes, summarize(counts), confusion_array(counts), unreadable)


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
    if source.labels.task == "multi":
        raise RequestError(f"the images of {data} have several classes each, and the model gives one")
    present = [name for name in ("test", "val", "train") if (source.labels.splits == name).any()]
    if split is not None and split not in present:
        raise RequestError(f"{data} has no split '{split}': it has {', '.join(present) or 'no splits'}")
    chosen = split or (present[0] if present else "")
    index = np.flatnonzero(source.labels.splits == chosen)
    return Subset(source, index), f"{chosen} images of {data}" if chosen else f"all images of {data}"


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
    return replace(labels, classes=classes, targets=positions[labels.targets])


class _Relabelled:
    """A source with other labels."""

    def __init__(self, source: Source, labels: Labels) -> None:
        self.labels = labels
        self.name, self.stamp = source.name, source.stamp
        self.read, self.decode = source.read, source.decode


def _with_small_batches(config: Config) -> Config:
    return config.replace(train={"batch_size": 32})
