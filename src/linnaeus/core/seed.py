"""Randomness without hidden state: every draw is a function of (seed, purpose, epoch, position in the global order).

A counter-based generator (Philox4x64: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) makes any
position's numbers available without the ones before it. So a batch reads its rows in one call, a worker reads the same
rows alone, and a resumed run needs no generator state.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

DRAWS = 64
"""How many uniform numbers one image may use in one epoch for one purpose."""

_DRAWS_PER_COUNT = 4  # Philox4x64 gives four 64-bit words for each value of its counter


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2^63) for one purpose, for generators that want an integer (`torch.manual_seed`)."""
    return _key(seed, purpose, index) >> 65


def generator(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """A numpy generator of its own for one purpose and epoch."""
    return np.random.Generator(np.random.Philox(key=_key(seed, purpose, epoch)))


def permutation(length: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The global order of one epoch: a permutation of range(length), int64."""
    return generator(seed, "order", epoch).permutation(length)


def draws(seed: int, purpose: str, epoch: int, *, start: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) for the positions start ... start + count - 1 of the global order.

    Returns:
        (count, DRAWS) float64. Row i depends on position start + i alone, not on how positions are grouped in calls.
    """
    counter = start * DRAWS // _DRAWS_PER_COUNT
    philox = np.random.Philox(key=_key(seed, purpose, epoch), counter=counter)
    return np.random.Generator(philox).random((count, DRAWS))


def _key(seed: int, purpose: str, index: int) -> int:
    digest = blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")
