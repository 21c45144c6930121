"""Who learns and who judges: *train* fits, *val* chooses and calibrates, *test* gives the headline.

What the source says of its splits is kept. Without `test`, a given `val` is the test, since a person who set one part
aside did so to judge with it. What is missing is carved out of train: stratified by class, as `stratify.py` says where
images have several, by a fixed seed, and with copies of an image always in one role. Where the given splits share
images, the copies outside the test are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError
from linnaeus.core.seed import generator
from linnaeus.data.duplicates import Twins, find_copies
from linnaeus.data.facts import Audit
from linnaeus.data.sources import Labels
from linnaeus.data.stratify import stratify

ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The role of every image.

    Attributes:
        roles: (N,) str, "train", "val", "test", or "" for an image that is left out.
        left_out: position -> reason, for images that decode and are left out all the same.
        carved: the roles that the source did not name.
    """

    roles: NDArray[np.str_]
    left_out: dict[int, str]
    carved: tuple[str, ...]

    def indices(self, role: str) -> NDArray[np.int64]:
        """Positions of the images of one role."""
        return np.flatnonzero(self.roles == role)


def assign_roles(
    labels: Labels,
    audit: Audit,
    *,
    val_share: float,
    test_share: float,
    seed: int,
    twins: Twins | None = None,
    quarantine: Mapping[int, str] | None = None,
) -> Split:
    """Gives every usable image its role.

    Args:
        labels: targets and the splits that the source states.
        audit: which images decode, and which are copies.
        val_share, test_share: share of the images to carve where the source has no such split.
        seed: the carving is a function of it and of the images.
        twins: which are copies and near copies: a family of them is carved together. By default those with the same
            content.
        quarantine: position -> reason, for the images that the doctor or the user wants left out.

    Raises:
        DataError: if a class has no usable image in a role, or too few to carve from.
    """
    roles = _given_roles(labels)
    copy_of = find_copies(audit) if twins is None else twins.copy_of
    roles[list(audit.broken)] = ""
    left_out = {index: why for index, why in (quarantine or {}).items() if index not in audit.broken}
    roles[list(left_out)] = ""
    left_out |= _copies_across(roles, copy_of)
    roles[list(left_out)] = ""
    missing = {"val": val_share, "test": test_share}
    carved = tuple(role for role in missing if not (roles == role).any())
    together = copy_of if twins is None else twins.families()
    _carve(roles, labels, together, {role: missing[role] for role in carved}, seed)
    _check(roles, labels)
    return Split(roles, left_out, carved)


def _given_roles(labels: Labels) -> NDArray[np.str_]:
    roles = np.where(labels.splits == "", "train", labels.splits).astype("U5")
    if not (roles == "test").any():
        roles[roles == "val"] = "test"
    return roles


def _copies_across(roles: NDArray[np.str_], copy_of: NDArray[np.int64]) -> dict[int, str]:
    """Images of train and val that are copies of one in the test, and images of train that are copies of one in val."""
    train, val, test = (roles == role for role in ROLES)
    in_test = (train | val) & np.isin(copy_of, copy_of[test])
    in_val = train & ~in_test & np.isin(copy_of, copy_of[val])
    found = np.flatnonzero(in_test | in_val).tolist()
    return {index: f"exact copy of an image in {'test' if in_test[index] else 'val'}" for index in found}


def _carve(
    roles: NDArray[np.str_], labels: Labels, together: NDArray[np.int64], shares: dict[str, float], seed: int
) -> None:
    """Moves groups of images of one number in `together` from train to each role in `shares`."""
    if not shares:
        return
    train = np.flatnonzero(roles == "train")
    # Groups in the order of their first images: the same for the same images, whatever their numbers.
    _, first, group = np.unique(together[train], return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group, first = rank[group], np.sort(first)
    shuffle = generator(seed, "split")
    if labels.task == "single":
        role_of_group = _carve_by_class(labels, labels.targets[train[first]].astype(np.int64), shares, shuffle)
    else:
        role_of_group = _stratify(labels.targets[train], group, len(first), shares, shuffle)
    roles[train] = role_of_group[group]


def _stratify(
    targets: NDArray[np.uint8] | NDArray[np.int64],
    group: NDArray[np.int64],
    number: int,
    shares: dict[str, float],
    shuffle: np.random.Generator,
) -> NDArray[np.str_]:
    """(number,) the role of each group of images that have several classes; `group` is that of each image."""
    if number <= len(shares):
        raise DataError(
            f"{number} different usable training image(s) are too few to set some aside for "
            f"{' and '.join(shares)}: add at least {len(shares) + 1 - number}"
        )
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    counts = np.add.reduceat(targets[order], np.cumsum(sizes) - sizes, axis=0, dtype=np.int64)  # (G, K)
    return stratify(counts, sizes, shares, shuffle)


def _carve_by_class(
    labels: Labels, classes: NDArray[np.int64], shares: dict[str, float], shuffle: np.random.Generator
) -> NDArray[np.str_]:
    """(G,) classes of groups -> (G,) their roles: a share of each class's groups, at least one group."""
    roles = np.full(len(classes), "train")
    order = np.argsort(classes, kind="stable")
    ends = np.cumsum(np.bincount(classes, minlength=len(labels.classes)))
    for name, own in zip(labels.classes, np.split(order, ends[:-1]), strict=True):
        if len(own) <= len(shares):
            raise DataError(
                f"class '{name}' has {len(own)} different usable training image(s), too few to set some aside for "
                f"{' and '.join(shares)}: add at least {len(shares) + 1 - len(own)}"
            )
        left = own[shuffle.permutation(len(own))]
        for role, share in shares.items():
            count = max(1, round(share * len(own)))
            roles[left[len(left) - count :]] = role
            left = left[: len(left) - count]
    return roles


def _check(roles: NDArray[np.str_], labels: Labels) -> None:
    for role in ROLES:
        counts = labels.counts(roles == role)
        if counts.min(initial=1) == 0 and role == "train":
            raise DataError(f"class '{labels.classes[int(counts.argmin())]}' has no usable image to train on")
        if counts.sum() == 0:
            raise DataError(f"no usable image{'' if labels.task == 'single' else ' with a class'} is left for {role}")
