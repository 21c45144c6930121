"""Which images form which batch, and with which numbers they are augmented: functions of the seed and the epoch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import draws, generator, permutation
from linnaeus.data.augment import Draws, alternate_flips, repeat
from linnaeus.data.balance import balanced_rows
from linnaeus.data.shard_order import shard_order


@dataclass(frozen=True)
class Order:
    """Which images form which batch.

    Attributes:
        num_images: N.
        batch_size: B, the largest batch.
        seed: shuffles each epoch anew; None keeps the images in order, for evaluation.
        repeats: copies of an image in an epoch, which then has as many fewer images (`augment.repeat`).
        alternate_flips: images are mirrored in every other epoch (`augment.alternate_flips`).
        shards: (N,) int32, the shard of each image, where images come by the shard: the order is then that of
            `shard_order`. None shuffles all images alike.
        classes: (N,), the class of each image: then all classes are equally frequent (`balanced_rows`). Without shards.
    """

    num_images: int
    batch_size: int
    seed: int | None
    repeats: int = 1
    alternate_flips: bool = False
    shards: NDArray[np.int32] | None = None
    classes: NDArray[np.int64] | None = None

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, each image in exactly one."""
        return -(-self.num_images // self.batch_size)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """(N,) positions in the set, in this epoch's global order."""
        if self.seed is None:
            return np.arange(self.num_images)
        if self.classes is not None:
            rows = balanced_rows(self.classes, seed=self.seed, epoch=epoch)
        elif self.shards is None:
            rows = permutation(self.num_images, seed=self.seed, epoch=epoch)
        else:
            rows = shard_order(self.shards, seed=self.seed, epoch=epoch)
        return repeat(rows, repeats=self.repeats)

    def draws(self, epoch: int, first: int, rows: NDArray[np.int64]) -> Draws:
        """(B, DRAWS), the numbers of `rows`, which stand from position `first` on in this epoch's order."""
        numbers = draws(self.seed or 0, "augment", epoch, start=first, count=len(rows))
        return alternate_flips(numbers, self._first_flips[rows], epoch=epoch) if self.alternate_flips else numbers

    @cached_property
    def _first_flips(self) -> NDArray[np.float64]:
        return generator(self.seed or 0, "flip").random(self.num_images)

    def bounds(self, number: int) -> tuple[int, int]:
        """First and last-but-one position, in the global order, of one batch.

        Batches for training differ by at most one image, for a small last batch would weigh its images more and give
        batch normalisation poor statistics. Batches for evaluation are full but for the last, to be padded.
        """
        if self.seed is None:
            return number * self.batch_size, min((number + 1) * self.batch_size, self.num_images)
        return (
            number * self.num_images // self.num_batches,
            (number + 1) * self.num_images // self.num_batches,
        )
