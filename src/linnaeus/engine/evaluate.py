"""Exact evaluation: every image counted once, for any batch size."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from linnaeus.core.batch import Loader
from linnaeus.core.device import at_once
from linnaeus.core.errors import EnvironmentFault
from linnaeus.engine.guard import FAILURES, is_out_of_memory


class Accumulator(Protocol):
    """What an evaluation fills: `Counts`, or `Outputs` where images have several classes."""

    def update(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Takes in one batch: (B, K) logits, targets as the loader has them, (B,) bool valid."""


Filled = TypeVar("Filled", bound=Accumulator)


class Parts:
    """How many images are evaluated at a time: as many as are fastest, and fewer once memory was too small for them.

    Attributes:
        size: images at a time, at most; 0 as long as memory sets no limit.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` is told in a line when the size is halved."""
        self.size, self._note = 0, note

    def logits(self, logits_of: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K): what `logits_of` says of all images, up to rounding the same in parts as at once.

        Raises:
            EnvironmentFault: if memory is too small for a single image.
        """
        while True:
            size = min(self.size or at_once(images), len(images))
            try:
                return torch.cat([logits_of(part) for part in torch.split(images, size)])
            except FAILURES as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise EnvironmentFault(
                        "memory is too small to evaluate one image: take a smaller --image-size or --model"
                    ) from None
            # Only here, where no traceback holds the activations any more.
            self.size = -(-size // 2)
            self._note(f"out of memory in evaluation: from here on {self.size} images at a time, with the same result")
            if images.is_cuda:
                torch.cuda.empty_cache()


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
