"""Whether an image is like those that the network was made for, from its logits before calibration."""

from math import floor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def familiarity(logits: Tensor, *, several: bool) -> Tensor:
    """(B, K) -> (B,), higher for images like those of training: the negative energy.

    For one class an image log sum exp of the logits (Liu et al. 2020, arXiv:2010.03759); for several the sum of
    log(1 + exp) over the classes (Wang et al. 2021, arXiv:2109.14162).
    """
    return F.softplus(logits).sum(1) if several else logits.logsumexp(1)


def familiarity_threshold(held_out: NDArray[np.float32], false_alarms: float) -> float | None:
    """Below which familiarity an image is unlike the training images; None where there are too few to tell.

    Of n held-out images the floor((n + 1) false_alarms)-th lowest: for a new image like these an alarm is at most as
    likely as `false_alarms`, on average over held-out sets. How many strange images are found is another matter.

    Args:
        held_out: (N,) familiarities.
        false_alarms: in (0, 1).
    """
    place = floor((len(held_out) + 1) * false_alarms + 1e-9)
    return float(np.sort(held_out)[place - 1]) if place >= 1 else None
