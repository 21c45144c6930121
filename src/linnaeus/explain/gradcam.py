"""Grad-CAM: where in the last map of a convolutional network a class is found.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017,
arXiv:1610.02391, section 3, equations 1 and 2: each channel of the map is weighted by the mean of the gradient of the
class's logit, and what speaks against the class is cut off.

The paper takes the output of the last convolution. Here it is the last map that any module returns at or after the last
block, so that what follows the blocks, such as the 1x1 convolution of EfficientNet, is part of it.

Shapes: B images, C channels, H and W height and width of the images, h and w those of the map.
"""

from collections import Counter

import torch
from torch import Tensor

from linnaeus.core.capture import capture
from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError
from linnaeus.explain.hooks import watch


def gradcam(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """How much each place speaks for a class.

    Args:
        model: in evaluation mode, so that one image does not depend on another; not compiled.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class that is looked for in each image.

    Returns:
        (B, h, w) float32, at least 0, without gradients; all 0 where nothing in the map speaks for the class.

    Raises:
        RequestError: if the network has no such map, as a Transformer.
    """
    name, is_last = target_layer(model, images[:1])
    with torch.enable_grad(), capture(model, name, gradients=True) as seen:
        logits = model(images.detach().requires_grad_())
        logits.gather(1, classes[:, None]).sum().backward(inputs=[seen[name]])
    maps, gradients = seen[name].detach(), seen[name].grad
    assert gradients is not None  # `capture` has seen to it
    if is_last:
        maps, gradients = maps.movedim(3, 1), gradients.movedim(3, 1)  # (B, h, w, D) -> (B, D, h, w)
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # (B, D, h, w) -> (B, D, 1, 1)
    return (weights * maps).sum(1).relu().float()  # (B, D, h, w) -> (B, h, w)


def target_layer(model: Classifier, images: Tensor) -> tuple[str, bool]:
    """The module that returns the last map of more than one place, from the last block on.

    Returns:
        Its name, and whether channels are the last dimension of what it returns, (B, h, w, D), as in Swin of timm.

    Raises:
        RequestError: if there is none.
    """
    last = next(name for name, module in model.named_modules() if module is model.blocks[-1])
    returned: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, outputs: list[Tensor]) -> None:
        returned.extend((name, tuple(output.shape)) for output in outputs[:1])

    with torch.no_grad(), watch(model.named_modules(), after=note):
        width = model.features(images).shape[1]
    calls = Counter(name for name, _ in returned)
    first = next((place for place, (name, _) in enumerate(returned) if name == last), len(returned))
    for name, shape in reversed(returned[first:]):
        is_last = len(shape) == 4 and shape[1] != width == shape[3]
        sides = shape[1:3] if is_last else shape[2:]
        if calls[name] == 1 and len(shape) == 4 and min(sides) > 1:
            return name, is_last
    raise RequestError(
        f"Grad-CAM needs a map behind the last block, and {last} of {type(model).__name__} and what follows return "
        "none: choose --method occlusion or integrated-gradients, which suit any network"
    )
