"""What evaluation keeps where images have several classes: average precision ranks images, so sums are not enough."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Judged(NamedTuple):
    """All images of an evaluation, on the host.

    Attributes:
        logits: (N, K) float32.
        probabilities: (N, K) float32, the sigmoid of the logits as torch computes it in float32.
        truths: (N, K) bool.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    truths: NDArray[np.bool_]


@dataclass(eq=False)
class Outputs:
    """The logits and targets of the images seen so far: 5 bytes an image and class, 20 MB for 50,000 images of 80.

    They stay on the device of the logits, so that `update` never waits for the device; `read` waits once.

    Attributes:
        num_classes: K.
        batches: (B, K) float32 logits, (B, K) bool truths and (B,) bool valid of each batch.
    """

    num_classes: int
    batches: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def update(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Keeps one batch.

        Args:
            logits: (B, K) float, of any precision.
            targets: (B, K), 1 for each class that an image has and 0 for the others.
            valid: (B,) bool; False marks padding, which is left out.

        Raises:
            ValueError: a shape or a dtype is not as above.
        """
        if not logits.is_floating_point() or logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits are {logits.dtype} {tuple(logits.shape)}: expected floats of shape (B, {self.num_classes})"
            )
        if targets.shape != logits.shape:
            raise ValueError(f"targets are {tuple(targets.shape)}: expected {tuple(logits.shape)}, a column a class")
        if valid.dtype != torch.bool or valid.shape != logits.shape[:1]:
            raise ValueError(f"valid is {valid.dtype} {tuple(valid.shape)}: expected torch.bool of ({len(logits)},)")
        self.batches.append((logits.detach().float(), targets > 0.5, valid))

    def __add__(self, other: "Outputs") -> "Outputs":
        """The outputs for both sets of images.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if self.num_classes != other.num_classes:
            raise ValueError(f"cannot add outputs of {self.num_classes} and {other.num_classes} classes")
        return Outputs(self.num_classes, self.batches + other.batches)

    def read(self) -> Judged:
        """All of it on the host, fit to be scored.

        Raises:
            ValueError: no image was seen, or the logits of some were NaN or infinite.
        """
        kept = [(logits[valid].cpu(), truths[valid].cpu()) for logits, truths, valid in self.batches]
        number = sum(len(logits) for logits, _ in kept)
        if not number:
            raise ValueError("no image was counted: expected at least one valid image")
        logits, truths = (torch.cat(parts) for parts in zip(*kept, strict=True))
        bad = number - int(logits.isfinite().all(dim=1).sum())
        if bad:
            raise ValueError(
                f"the logits of {bad} of {number} images hold NaN or infinite values: "
                "no score can be given; look for the first layer that produces them"
            )
        return Judged(logits.numpy(), logits.sigmoid().numpy(), truths.numpy())
