"""How much each pixel counts for a class: integrated gradients and occlusion, for any network, by Captum.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv:1703.01365, section 3: the
gradient of the class's logit, averaged on the straight way from a baseline to the image, times the difference of the
two. It is complete: all values sum to the logit of the image less that of the baseline.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901, section 4.2: how
far the logit falls when a square is covered.

The baseline, and the cover, is 0 after normalisation: the mean colour that the network is normalised by.

Shapes: B images, C channels, H and W height and width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linnaeus.core.errors import RequestError

STEPS = 32
"""Of the integral; how far it is off is told, and more steps bring it closer."""
AT_ONCE = 16
"""Images in one forward pass."""
COVER = 6
"""Squares that lie side by side across an image; they move by two thirds of their side, and so overlap."""


@dataclass(frozen=True)
class Attribution:
    """What one image's pixels count for.

    Attributes:
        values: (B, H, W) float32, summed over the channels; positive speaks for the class.
        gap: (B,) float32, the sum of all values less what it should be, in logits: the error of the integral.
    """

    values: Tensor
    gap: Tensor


def integrated_gradients(model: nn.Module, images: Tensor, classes: Tensor, *, steps: int = STEPS) -> Attribution:
    """How much each pixel adds to the logit of a class, from the mean colour to the image.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class that is looked for in each image.
        steps: of the integral, by the rule of Gauss and Legendre.

    Raises:
        RequestError: if Captum is not installed.
    """
    attr = _captum()
    method = attr.IntegratedGradients(model)
    found, gap = method.attribute(
        images.detach(),
        baselines=torch.zeros_like(images),
        target=classes,
        n_steps=steps,
        internal_batch_size=AT_ONCE,
        return_convergence_delta=True,
    )
    return Attribution(found.detach().sum(1).float(), gap.float())


def occlusion(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How far the logit of a class falls where a square is covered, averaged over the squares that cover a pixel.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class that is looked for in each image.

    Returns:
        (B, H, W) float32; positive where covering costs.

    Raises:
        RequestError: if Captum is not installed.
    """
    attr = _captum()
    side = max(2, round(min(images.shape[-2:]) / COVER))
    step = max(1, round(side * 2 / 3))
    with torch.no_grad():
        found: Tensor = attr.Occlusion(model).attribute(
            images,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], step, step),
            baselines=0.0,
            target=classes,
            perturbations_per_eval=max(1, AT_ONCE // len(images)),
        )
    return found.mean(1).float()  # (B, C, H, W) -> (B, H, W); all channels are covered together


def _captum() -> Any:
    try:
        from captum import attr  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise RequestError(f"this explanation needs {error.name}: pip install 'linnaeus[explain]'") from None
    return attr
