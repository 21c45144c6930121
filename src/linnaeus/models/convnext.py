"""ConvNeXt: a convolutional network with the proportions of a Swin Transformer.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, section 2, figure 4 and table 9.

Shapes: B batch, C channels, H and W height and width, D width of the features, K classes.
Parameters have the names of the reference implementation (facebookresearch/ConvNeXt).

What differs from the reference: normalisation over the channels of (B, C, H, W) goes through a permutation instead of a
mean and a variance by hand; the option that scales the head's first weights is left out.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.models.layers import DropPath, drop_path_rates

NORM_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


class Block(nn.Module):
    """A 7x7 depthwise convolution mixes space, two linear layers mix channels: figure 4, right.

    The 1x1 convolutions of the figure are linear layers on (B, H, W, C), as in the reference, which found them slightly
    faster; for tensors in `torch.channels_last` the permuted ones are contiguous, so that nothing is copied.
    """

    def __init__(self, dim: int, *, drop_path: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.empty(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dwconv(x).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        branch = self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(branch))))
        output: Tensor = x + self.drop_path(branch.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)
        return output


class ConvNeXt(Classifier):
    """Four stages of blocks, each after a layer that divides H and W: by 4 before the first, by 2 before the others.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels, at least 32; the network accepts other such sizes too.
        depths: number of blocks in each stage.
        dims: width of each stage; the last is D.
        layer_scale: start of the learned factor of each channel of a residual branch.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        depths: tuple[int, int, int, int],
        dims: tuple[int, int, int, int],
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError(f"ConvNeXt got image_size={image_size}, expected at least 32: it divides H and W by 32")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.layer_scale = layer_scale

        stem = nn.Sequential(
            nn.Conv2d(in_channels, dims[0], kernel_size=4, stride=4), LayerNorm2d(dims[0], eps=NORM_EPS)
        )
        self.downsample_layers = nn.ModuleList([stem])
        for dim, next_dim in pairwise(dims):
            norm = LayerNorm2d(dim, eps=NORM_EPS)
            self.downsample_layers.append(nn.Sequential(norm, nn.Conv2d(dim, next_dim, kernel_size=2, stride=2)))
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim, drop_path=next(rates)) for _ in range(depth)])
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=NORM_EPS)
        self.head = nn.Linear(dims[-1], num_classes)
        self.init_weights()

    def features(self, images: Tensor) -> Tensor:
        x = images
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        features: Tensor = self.norm(x.mean(dim=(2, 3)))  # (B, D, H, W) -> (B, D)
        return features

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        return [block for block in self.modules() if isinstance(block, Block)]

    def init_weights(self) -> None:
        """Weights are normal with std 0.02, biases 0; normalisation has scale 1, shift 0; gamma is `layer_scale`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, Block):
                nn.init.constant_(module.gamma, self.layer_scale)


convnext_tiny = partial(ConvNeXt, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
convnext_small = partial(ConvNeXt, depths=(3, 3, 27, 3), dims=(96, 192, 384, 768))
convnext_base = partial(ConvNeXt, depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024))
convnext_large = partial(ConvNeXt, depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536))
