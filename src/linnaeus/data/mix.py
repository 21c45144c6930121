"""Mixing the images of a batch and their targets, on the device, in training only.

Neighbours are mixed: the image at an even place of the batch with the one after it, each into the other. In a shuffled
order any pairing is as random as another, and this one holds in every part of a batch that is cut between pairs: so
neither micro-batches nor processes change a result. What is drawn is drawn once a step, on the host, from the seed and
the number of the step; the device is never waited for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from linnaeus.core.seed import generator


@dataclass(frozen=True)
class Mixing:
    """What a run mixes.

    Attributes:
        seed: of the run.
        num_classes: K.
        mixup: a of Beta(a, a), from which a step of mixup draws the share of an image that stays; 0 for no mixup.
        cutmix: the same for CutMix.
        probability: share of the steps that mix.
        switch: share of the mixing steps that cut, where both are on.
    """

    seed: int
    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or max(self.mixup, self.cutmix) == 0:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix}: expected one above 0, and none below")
        if not 0 < self.probability <= 1 or not 0 <= self.switch <= 1:
            raise ValueError(f"probability {self.probability} and switch {self.switch}: expected shares in [0, 1]")


def mix(images: Tensor, targets: Tensor, valid: Tensor, step: int, *, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Mixes a batch as `mixing` says, in the way that this step has drawn.

    Args:
        images: (B, C, H, W) float, normalised.
        targets: (B,) int64 classes, or (B, K): 1 for each class of an image, or probabilities.
        valid: (B,) bool; an image that is not, or whose neighbour is not, stays as it is.
        step: number of the step, from 0.

    Returns:
        (B, C, H, W) and (B, K) float. What came in is not changed.
    """
    numbers = generator(mixing.seed, "mix", step)
    whether, which, *centre = numbers.random(4).tolist()
    soft = soft_targets(targets, mixing.num_classes)
    if whether >= mixing.probability:
        return images, soft
    cutting = mixing.mixup == 0 or (mixing.cutmix > 0 and which < mixing.switch)
    alpha = mixing.cutmix if cutting else mixing.mixup
    share = float(numbers.beta(alpha, alpha))
    partner = partners(valid)
    if not cutting:
        return mixup(images, soft, partner, share=share)
    box = cut_box(images.shape[2], images.shape[3], share=share, centre=(centre[0], centre[1]))
    return cutmix(images, soft, partner, box=box)


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """(B,) int64 -> (B, K) float32, one of K each; (B, K) of any kind becomes float32."""
    if targets.ndim == 2:
        return targets.float()
    return torch.zeros(len(targets), num_classes, device=targets.device).scatter_(1, targets[:, None], 1.0)


def partners(valid: Tensor) -> Tensor:
    """(B,) bool -> (B,) int64: whom each image is mixed with; itself where one of the two is not valid or missing."""
    own = torch.arange(len(valid), device=valid.device)
    other = own ^ 1  # 1, 0, 3, 2, ...
    other = torch.where(other < len(valid), other, own)
    return torch.where(valid & valid[other], other, own)


def mixup(images: Tensor, targets: Tensor, partner: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Averages each image and its target with its partner's (Zhang et al. 2017, "mixup").

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) float.
        partner: (B,) int64.
        share: of the image itself, in [0, 1].
    """
    return images.lerp(images[partner], 1 - share), targets.lerp(targets[partner], 1 - share)


def cutmix(
    images: Tensor, targets: Tensor, partner: Tensor, *, box: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Puts a part of its partner into each image, and into its target by area (Yun et al. 2019, "CutMix").

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) float.
        partner: (B,) int64.
        box: (top, left, bottom, right), the same for all images.
    """
    top, left, bottom, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, targets.lerp(targets[partner], area)


def cut_box(height: int, width: int, *, share: float, centre: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a box in the image's shape, of 1 - share of its area before it is clipped.

    Args:
        height, width: of the image.
        share: of the image itself, in [0, 1].
        centre: uniform numbers in [0, 1) that choose the row and column; the box is clipped at the edges.
    """
    side = math.sqrt(1 - share)
    box_height, box_width = int(height * side), int(width * side)
    top, left = int(centre[0] * height) - box_height // 2, int(centre[1] * width) - box_width // 2
    return max(top, 0), max(left, 0), min(top + box_height, height), min(left + box_width, width)
