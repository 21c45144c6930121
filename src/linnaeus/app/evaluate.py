"""A finished model judged again: on its own test images, or on others."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from linnaeus.app.answers import collect
from linnaeus.app.config import Config, make_config
from linnaeus.app.images import evaluation_loader
from linnaeus.app.prepare import columns as columns_of
from linnaeus.app.prepare import read_roles
from linnaeus.app.progress import Display
from linnaeus.app.robustness import measure_robustness, write_robustness
from linnaeus.app.run import Run
from linnaeus.app.scoring import Evaluation, evaluate_answers
from linnaeus.core.device import pick
from linnaeus.core.errors import DataError, RequestError
from linnaeus.data.doctor import audit
from linnaeus.data.sources import Columns, Labels, Source, open_source
from linnaeus.data.sources.labels import SEPARATORS
from linnaeus.data.sources.subset import Subset
from linnaeus.deploy.artefact import Artefact, load_runtime
from linnaeus.deploy.bundle import Bundle


def evaluate(
    folder: Path,
    data: str | None,
    *,
    columns: Columns = Columns(),  # noqa: B008  # frozen
    split: str | None,
    device: str,
    display: Display,
    robustness: bool = False,
) -> Evaluation:
    """Scores a run, a model or an artefact on `data`, or a run or its artefact on the run's own test images.

    An artefact is first asked about its golden samples.

    Args:
        folder: of a run; of an artefact in its run; or, where `data` is given, of any model or artefact.
        data: as for training; its classes are matched to the model's by name.
        columns: of `data`, where it is a table.
        split: which split of `data`; by default test, or val, or all images where it has no splits.
        robustness: also on spoiled versions of some of the images; of a run's own test images it is kept in the run.

    Raises:
        RequestError: if a class of `data` is unknown to the model, its images have several classes and the model gives
            one, or there is no such split.
        DataError: if no image can be read, or none has a class.
    """
    bundle = load_runtime(folder)
    if isinstance(bundle, Artefact):
        folder = _check_artefact(bundle, robustness, display)
    if data is None:
        source, what = own_images(Run(folder), split or "test", display)
        config = Run(folder).read_config()
    else:
        source, what = other_images(data, columns, split, display)
        config = make_config({"data": {"source": data}})
    source = match_model(source, bundle, what, display)
    with display.bar("checking images", len(source.labels)) as advance:
        found = audit(source, keep_below=0, progress=advance)
    unreadable = {source.name(index): reason for index, reason in found.broken.items()}
    for name, reason in list(unreadable.items())[:10]:
        display.say(f"not counted: {name}: {reason}")
    if not len(found.usable):
        raise DataError(f"none of the {len(source.labels)} images of {what} can be read")
    if bundle.task == "multi" and not source.labels.targets[found.usable].any():
        raise DataError(f"none of the {len(found.usable)} images of {what} has a class: there is nothing to score")
    loader = evaluation_loader(source, found.usable, bundle.preprocess, with_small_batches(config))
    answers = collect(bundle, loader, source, found, device=pick(device), display=display)
    result = replace(evaluate_answers(answers, bundle.about, what), unreadable=unreadable)
    if not robustness or isinstance(bundle, Artefact):
        return result
    measured = measure_robustness(bundle, source, found.usable, images=what, display=display)
    if data is None and split in (None, "test"):
        write_robustness(Run(folder), measured)
    return replace(result, robustness=measured)


def _check_artefact(artefact: Artefact, robustness: bool, display: Display) -> Path:
    """Whether it works on this machine; and the folder of the run that it lies in, if it still does."""
    if robustness:
        raise RequestError("--robustness is measured of a network, not of an artefact: give the run")
    gap = artefact.check_golden()
    display.say(f"its golden samples give what they gave at export (largest difference of a probability {gap:.1g})")
    return artefact.folder.resolve().parent.parent


def match_model(source: Source, bundle: Bundle | Artefact, what: str, display: Display) -> Source:
    """The same images with the labels as positions in the classes of the model."""
    labels = source.labels
    if labels.task == "multi" and bundle.task == "single":
        raise RequestError(f"{what}: they have several classes each, and the model gives one")
    if labels.task == "single" and bundle.task == "multi":
        display.say(f"{what}: taken for images of several classes, of which those that are not named are absent")
        labels = _as_several(labels, bundle.classes)
    return _Relabelled(source, _match(labels, bundle.classes))


def own_images(run: Run, role: str, display: Display) -> tuple[Source, str]:
    """The images of a role of a run, and what they are in words."""
    config = run.read_config()
    source = open_source(config.data.source, columns_of(config.data), bar=display.bar)
    roles, gone = read_roles(run.data, source)
    chosen = np.flatnonzero(roles == role)
    expected = len(chosen) + sum(r == role for r in gone.values())
    if len(chosen) < expected or not len(chosen):
        raise DataError(
            f"{config.data.source} has {len(chosen)} of the {expected} images of this run's {role}: put them back"
        )
    return Subset(source, chosen), f"{role} images of {config.data.source}"


def other_images(data: str, columns: Columns, split: str | None, display: Display) -> tuple[Source, str]:
    """The images of a split, by default test, or else val, or else all; and what they are in words."""
    source = open_source(data, columns, bar=display.bar)
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
        self.name, self.names, self.stamps = source.name, source.names, source.stamps
        self.read, self.decode = source.read, source.decode


def with_small_batches(config: Config) -> Config:
    """The same configuration, for evaluation of images of any number."""
    return config.replace(train={"batch_size": 32})
