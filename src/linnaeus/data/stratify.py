"""Sharing out images of several classes each, so that every part gets its share of every class.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data"): the class
with the fewest images left is shared out first, since the others have enough to make up for what comes along with it.
Two things are added. What is shared out are groups of images, such as the copies of one. And train keeps at least one
group of each class, since what is not there cannot be learnt.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def stratify(
    counts: NDArray[np.int64], sizes: NDArray[np.int64], shares: Mapping[str, float], shuffle: np.random.Generator
) -> NDArray[np.str_]:
    """Gives every group of images a role.

    Each class goes to each role in proportion. Where none of a class came to a role, one group is moved there from
    train if each of its classes has another there: so a class of as many groups as roles is nearly always in all.

    Args:
        counts: (G, K) images of each class in each group; a row may be all zeros.
        sizes: (G,) images of each group, at least 1.
        shares: of the images, for each role but train, which gets the rest.
        shuffle: draws the order in which groups of a class are placed.

    Returns:
        (G,) "train" or a key of `shares`.
    """
    sharing = _Sharing(counts, sizes, np.array(list(shares.values())))
    order = shuffle.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large ones first: the small ones even them out
    while sharing.left.any():
        rarest = int(np.where(sharing.left > 0, sharing.left, len(sizes) + 1).argmin())
        for group in order[(counts[order, rarest] > 0) & (sharing.place[order] < 0)].tolist():
            sharing.put(group, rarest)
    for group in order[sharing.place[order] < 0].tolist():  # no class: by the number of images alone
        sharing.put(group, -1)
    sharing.complete(order)
    roles: NDArray[np.str_] = np.array(["train", *shares])[sharing.place]
    return roles


class _Sharing:
    """Who got what so far.

    Attributes:
        place: (G,) the role of each group: 0 is train, -1 is none yet.
        left: (K,) groups of each class without a role.
    """

    def __init__(self, counts: NDArray[np.int64], sizes: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        self.place = np.full(len(sizes), -1)
        self._has = counts > 0
        self.left = self._has.sum(0)
        self._groups = np.zeros((len(shares) + 1, counts.shape[1]), np.int64)  # of each class in each role
        self._images = np.column_stack([counts, sizes])  # (G, K + 1): the last column counts images of any class
        parts = np.array([1 - shares.sum(), *shares])
        self._wanted = parts[:, None] * self._images.sum(0)  # (R, K + 1)

    def put(self, group: int, label: int) -> None:
        """Places a group in the role that lacks most images of the class `label`, of equal ones most images."""
        own = self._has[group]
        roles = range(len(self._wanted)) if ((self._groups[0] + self.left)[own] > 1).all() else range(1)
        role = max(roles, key=lambda role: (self._wanted[role, label], self._wanted[role, -1]))
        self.place[group] = role
        self._groups[role] += own
        self._wanted[role] -= self._images[group]
        self.left -= own

    def complete(self, order: NDArray[np.int64]) -> None:
        """Moves groups out of train for the classes that are missing elsewhere, where train can spare them."""
        for role in range(1, len(self._groups)):
            for label in np.flatnonzero(self._groups[role] == 0).tolist():
                for group in order[(self.place[order] == 0) & self._has[order, label]].tolist():
                    own = self._has[group]
                    if (self._groups[0, own] > 1).all():
                        self.place[group] = role
                        self._groups[0] -= own
                        self._groups[role] += own
                        break
