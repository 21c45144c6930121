"""The order of an epoch over shards, for images that come by the shard: from another machine, or a slow disk."""

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.seed import generator

WINDOW = 8
"""Shards whose images are mixed with each other, and which have to be at hand together."""


def shard_order(shards: NDArray[np.int32], *, seed: int, epoch: int, window: int = WINDOW) -> NDArray[np.int64]:
    """Shuffles the shards, gathers them by `window`, and shuffles the rows within each gathering.

    Each row comes once, whatever the sizes of the shards. The order is a function of the arguments alone: every process
    computes the same one, takes its own batches of it, and can start anywhere in it. With as many shards as `window` or
    fewer it is a permutation of all rows.

    Args:
        shards: (N,) the shard of each row.
        window: how many shards at most are read from at any time; the gatherings are of one size within one shard.

    Returns:
        (N,) positions in `shards`.
    """
    names, shard = np.unique(shards, return_inverse=True)
    draw = generator(seed, "shards", epoch)
    rank = draw.permutation(len(names))
    gatherings = -(-len(names) // window)
    gathering = rank * gatherings // max(1, len(names))
    return np.lexsort((draw.random(len(shards)), gathering[shard]))
