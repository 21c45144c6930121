"""Exact evaluation: every image counted once, for any batch size."""

from collections.abc import Callable

import torch
from torch import Tensor

from linnaeus.core.batch import Loader
from linnaeus.metrics.counts import Counts


@torch.inference_mode()
def evaluate(
    logits_of: Callable[[Tensor], Tensor],
    loader: Loader,
    *,
    num_classes: int,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Counts what a classifier gets right.

    Args:
        logits_of: (B, C, S, S) uint8 images on `device` -> (B, K) logits.
        loader: yields each image once; padding is marked and not counted.
        num_classes: K.
        device: where `logits_of` computes.
        progress: called with the number of images done since the last call.
    """
    counts = Counts.zeros(num_classes)
    for batch in loader.epoch(0):
        batch = batch.to(device)
        counts.update(logits_of(batch.images), batch.targets, batch.valid)
        if progress is not None:
            progress(len(batch))
    return counts
