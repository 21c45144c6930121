"""Batch normalisation folded into the convolution before it: the same features in fewer passes over memory."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from linnaeus.core.classifier import Classifier

TOLERANCE = 1e-4
"""Largest difference of a feature, as a share of the largest feature."""


@torch.no_grad()
def folded(model: Classifier, images: Tensor) -> Classifier:
    """A copy of a network, for inference, in which each convolution does what the normalisation after it did.

    Which follows which is seen in one forward pass. The features of the copy are compared with the network's own: where
    folding is not the same computation, as after a convolution that is used twice, the copy has nothing folded.

    Args:
        model: on the device of the images; not changed.
        images: (B, C, H, W) float, normalised, to look at; a few.
    """
    plain = deepcopy(model).eval()
    made = deepcopy(plain)
    names = {module: name for name, module in made.named_modules()}
    for convolution, norm in _pairs(made, images):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        convolution.weight, convolution.bias = weight, bias
        made.set_submodule(names[norm], nn.Identity())
    expected = plain.features(images)
    gap = (made.features(images) - expected).abs().max()
    return made if bool(gap <= TOLERANCE * expected.abs().max()) else plain  # a gap that is NaN is none


def _pairs(model: Classifier, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions with the normalisation that was given just what they put out."""
    last: list[tuple[nn.Conv2d, Tensor]] = []
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            last[:] = [(module, output)]
        elif last and inputs[0] is last[0][1] and isinstance(module, nn.BatchNorm2d):
            pairs.append((last[0][0], module))

    # No subclass of a normalisation: it may do more than that.
    looked_at = [m for m in model.modules() if isinstance(m, nn.Conv2d) or _is_plain(m)]
    handles = [module.register_forward_hook(look) for module in looked_at]
    try:
        model.features(images)
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None
