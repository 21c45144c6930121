"""Who learns and who judges: *train* fits, *val* chooses and calibrates, *test* gives the headline.

What the source says of its splits is kept. Without `test`, a given `val` is the test, since a person who set one part
aside did so to judge with it. What is missing is carved out of train: stratified by class, as `stratify.py` says where
images have several, by a fixed seed, and with copies of an image always in one role. Where the given splits share
images, the copies outside the test are left out.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import DataError
from linnaeus.core.seed import generator
from linnaeus.data.doctor import Audit
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
    families: NDArray[np.int64] | None = None,
    quarantine: Mapping[int, str] | None = None,
) -> Split:
    """Gives every usable image its role.

    Args:
        labels: targets and the splits that the source states.
        audit: which images decode, and which are copies.
        val_share, test_share: share of the images to carve where the source has no such split.
        seed: the carving is a function of it and of the images.
        families: (N,) a number each, as `Twins.families` gives it: images of one number are carved together. By default
            those with the same content.
        quarantine: position -> reason, for the images that the doctor or the user wants left out.

    Raises:
        DataError: if a class has no usable image in a role, or too few to carve from.
    """
    roles = _given_roles(labels)
    roles[list(audit.broken)] = ""
    left_out = {index: why for index, why in (quarantine or {}).items() if index not in audit.broken}
    roles[list(left_out)] = ""
    left_out |= _copies_across(roles, audit)
    roles[list(left_out)] = ""
    missing = {"val": val_share, "test": test_share}
    carved = tuple(role for role in missing if not (roles == role).any())
    together = audit.digests.tolist() if families is None else families.tolist()
    _carve(roles, labels, together, {role: missing[role] for role in carved}, seed)
    _check(roles, labels)
    return Split(roles, left_out, carved)


def _given_roles(labels: Labels) -> NDArray[np.str_]:
    roles = np.where(labels.splits == "", "train", labels.splits).astype("U5")
    if not (roles == "test").any():
        roles[roles == "val"] = "test"
    return roles


def _copies_across(roles: NDArray[np.str_], audit: Audit) -> dict[int, str]:
    """Images of train and val that are copies of one in the test, and images of train that are copies of one in val."""
    digests = audit.digests.tolist()
    held_out = {role: {digests[i] for i in np.flatnonzero(roles == role)} for role in ("val", "test")}
    reasons = {}
    for index in np.flatnonzero((roles == "train") | (roles == "val")).tolist():
        if digests[index] in held_out["test"]:
            reasons[index] = "exact copy of an image in test"
        elif roles[index] == "train" and digests[index] in held_out["val"]:
            reasons[index] = "exact copy of an image in val"
    return reasons


def _carve(
    roles: NDArray[np.str_], labels: Labels, together: list[Hashable], shares: dict[str, float], seed: int
) -> None:
    """Moves groups of copies from train to each role in `shares`."""
    if not shares:
        return
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in np.flatnonzero(roles == "train").tolist():
        groups[together[index]].append(index)
    shuffle = generator(seed, "split")
    if labels.task == "single":
        _carve_by_class(roles, labels, list(groups.values()), shares, shuffle)
        return
    order = np.array([index for members in groups.values() for index in members], np.int64)
    sizes = np.array([len(members) for members in groups.values()], np.int64)
    if len(sizes) <= len(shares):
        raise DataError(
            f"{len(sizes)} different usable training image(s) are too few to set some aside for "
            f"{' and '.join(shares)}: add at least {len(shares) + 1 - len(sizes)}"
        )
    starts = np.cumsum(sizes) - sizes
    counts = np.add.reduceat(labels.targets[order], starts, axis=0, dtype=np.int64)  # (G, K)
    roles[order] = np.repeat(stratify(counts, sizes, shares, shuffle), sizes)


def _carve_by_class(
    roles: NDArray[np.str_],
    labels: Labels,
    groups: list[list[int]],
    shares: dict[str, float],
    shuffle: np.random.Generator,
) -> None:
    """Moves a share of each class's groups, at least one group."""
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for members in groups:
        by_class[int(labels.targets[members[0]])].append(members)
    for label, name in enumerate(labels.classes):
        own = by_class[label]
        if len(own) <= len(shares):
            raise DataError(
                f"class '{name}' has {len(own)} different usable training image(s), too few to set some aside for "
                f"{' and '.join(shares)}: add at least {len(shares) + 1 - len(own)}"
            )
        order = shuffle.permutation(len(own)).tolist()
        for role, share in shares.items():
            for _ in range(max(1, round(share * len(own)))):
                roles[own[order.pop()]] = role


def _check(roles: NDArray[np.str_], labels: Labels) -> None:
    for role in ROLES:
        counts = labels.counts(roles == role)
        if counts.min(initial=1) == 0 and role == "train":
            raise DataError(f"class '{labels.classes[int(counts.argmin())]}' has no usable image to train on")
        if counts.sum() == 0:
            raise DataError(f"no usable image{'' if labels.task == 'single' else ' with a class'} is left for {role}")
