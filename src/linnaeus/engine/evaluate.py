"""Exact evaluation: every image counted once, for any batch size."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from linnaeus.core.batch import Loader


class Accumulator(Protocol):
    """What an evaluation fills: `Counts`, or `Outputs` where images have several classes."""

    def update(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Takes in one batch: (B, K) logits, targets as the loader has them, (B,) bool valid."""


Filled = TypeVar("Filled", bound=Accumulator)


@torch.inference_mode()
def evaluate(
    logits_of: Callable[[Tensor], Tensor],
    loader: Loader,
    *,
    into: Filled,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> Filled:
    """Shows a classifier every image, and hands back `into` with what it said.

    Args:
        logits_of: (B, C, S, S) uint8 images on `device` -> (B, K) logits.
        loader: yields each image once; padding is marked and not counted.
        into: takes in the logits and targets of each batch.
        device: where `logits_of` computes.
        progress: called with the number of images done since the last call.
    """
    for batch in loader.epoch(0):
        batch = batch.to(device)
        into.update(logits_of(batch.images), batch.targets, batch.valid)
        if progress is not None:
            progress(len(batch))
    return into
