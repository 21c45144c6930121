"""Losses: sums over the images that count, so that micro-batches and ranks add up before the one division."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over the valid images, computed in float32 or better.

    Args:
        logits: (B, K).
        targets: (B,) int64 classes, or (B, K) probabilities.
        valid: (B,) bool.
        label_smoothing: share of each target spread evenly over all classes (Szegedy et al. 2016, section 7).

    Returns:
        A scalar.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return (losses * valid).sum()
