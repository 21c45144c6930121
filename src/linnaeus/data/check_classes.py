"""The checks on classes: enough images of each, in each split."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from linnaeus.data.findings import Case, Finding

FEW_IMAGES = 10
IMBALANCE = 10.0  # images of the largest class over those of the smallest
_SHOWN = 5  # classes in a sentence


def check_class_sizes(case: Case) -> Iterable[Finding]:
    """Classes with no image, with few, and with many fewer than others. Images that do not decode do not count."""
    usable, classes = case.audit.usable, case.labels.classes
    counts = case.labels.counts(usable)
    present = np.flatnonzero(counts)
    if len(usable) and len(np.unique(case.label_numbers()[usable])) == 1:
        what = "are of class" if case.labels.task == "single" else "have the same labels:"
        yield Finding("one_class", f"All images that can be used {what} '{case.labels.text(int(usable[0]))}'.")
    elif case.labels.task == "multi":
        yield from _on_every_image(counts, len(usable), classes)
    empty = [classes[k] for k in np.flatnonzero(counts == 0)]
    if empty and len(present):
        yield Finding(
            "empty_class",
            f"{_classes(len(empty), 'has', 'have')} no usable image: {_list(empty)}.",
            subjects=tuple(empty),
        )
    small = [k for k in present.tolist() if counts[k] < FEW_IMAGES]
    if small:
        names = [f"{classes[k]} ({counts[k]})" for k in small]
        reason = f"{_classes(len(small), 'has', 'have')} fewer than {FEW_IMAGES} usable images: {_list(names)}."
        yield Finding("tiny_class", reason, subjects=tuple(names))
    if len(present) > 1 and counts.max() >= IMBALANCE * counts[present].min():
        largest, smallest = int(counts.argmax()), int(present[counts[present].argmin()])
        reason = (
            f"'{classes[largest]}' has {counts[largest]:,} images and '{classes[smallest]}' {counts[smallest]:,}: "
            f"{counts[largest] / counts[smallest]:.0f} times as many."
        )
        yield Finding("unbalanced", reason, subjects=(classes[largest], classes[smallest]))


def check_without_class(case: Case) -> Iterable[Finding]:
    """Images that have none of the classes, which is allowed where they may have several."""
    if case.labels.task == "single":
        return
    usable = case.audit.usable
    bare = usable[~case.labels.targets[usable].any(1)]
    if len(bare):
        total = len(case.labels)
        share = f"{len(bare):,} of {total:,} images ({len(bare) / total:.1%})"
        reason = f"{share} {'has' if len(bare) == 1 else 'have'} none of the {len(case.labels.classes):,} classes."
        yield Finding("no_class", reason, dict.fromkeys(bare.tolist(), "no class"))


def _on_every_image(counts: NDArray[np.int64], total: int, classes: Sequence[str]) -> Iterable[Finding]:
    """A class that every image has is right for whatever is said of it, and so its score says nothing."""
    everywhere = [classes[k] for k in np.flatnonzero(counts == total).tolist()]
    if everywhere:
        reason = f"{_classes(len(everywhere), 'is', 'are')} on every image, with nothing to be told from: "
        yield Finding("unbalanced", f"{reason}{_list(everywhere)}.", subjects=tuple(everywhere))


def check_splits(case: Case) -> Iterable[Finding]:
    """Classes that have images, and none in one of the splits."""
    usable, classes = case.audit.usable, case.labels.classes
    known = case.labels.counts(usable) > 0
    for split in case.splits:
        counts = case.labels.counts(usable[case.labels.splits[usable] == split])
        missing = [classes[k] for k in np.flatnonzero(known & (counts == 0))]
        if missing:
            reason = f"{_classes(len(missing), 'is', 'are')} missing from {split}: {_list(missing)}."
            yield Finding("missing_from_split", reason, subjects=tuple(missing))


def _classes(count: int, one: str, more: str) -> str:
    return f"{count:,} class {one}" if count == 1 else f"{count:,} classes {more}"


def _list(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
