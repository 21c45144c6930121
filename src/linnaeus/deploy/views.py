"""Test-time augmentation: a finished model looks at several views of an image, and its logits are averaged.

| name | views |
|---|---|
| `none` | the image |
| `flip` | the image and its mirror image |
| `shift` | both, and both shifted by a pixel up and left, and down and right, which count half as much: six views |

`shift` is the evaluation of small images of Jordan (arXiv:2404.00498). The average is over logits, as there, and not
over probabilities: it is linear, so that calibration, exports and several classes an image need not know of it.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_VIEWS = {"none": 1, "flip": 2, "shift": 6}
"""How many times an image is looked at, and so how much longer that takes."""


def average_views(logits_of: Callable[[Tensor], Tensor], images: Tensor, tta: str) -> Tensor:
    """The weighted mean of the logits of all views.

    Args:
        logits_of: (B, C, S, S) -> (B, K).
        images: (B, C, S, S) float, normalised. `logits_of` is given this very tensor as the first view.
        tta: a name of `NUM_VIEWS`.

    Returns:
        (B, K) float32.
    """
    if tta == "none":
        return logits_of(images).float()
    return torch.stack([weight * logits_of(view).float() for view, weight in views(images, tta)]).sum(0)


def views(images: Tensor, tta: str) -> Iterator[tuple[Tensor, float]]:
    """Each view, (B, C, S, S), with its weight; these sum to 1."""
    if tta == "none":
        yield images, 1.0
    elif tta == "flip":
        yield from _with_mirror(images, 1.0)
    else:
        size = images.shape[-1]
        yield from _with_mirror(images, 0.5)
        padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
        for start in (0, 2):
            yield from _with_mirror(padded[:, :, start : start + size, start : start + size], 0.25)


def _with_mirror(images: Tensor, weight: float) -> Iterator[tuple[Tensor, float]]:
    yield images, weight / 2
    yield images.flip(-1), weight / 2
