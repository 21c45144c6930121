"""ConvNeXt V1 and V2: convolutional networks with the proportions of a Swin Transformer.

V1: Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, section 2, figure 4 and table 9.
V2: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023, arXiv:2301.00808,
section 4 and figure 5. Its block has global response normalisation in place of layer scale.

Shapes: B batch, C channels, H and W height and width, D width of the features, K classes.
Parameters have the names of the reference implementations (facebookresearch/ConvNeXt and ConvNeXt-V2).

What differs from the references: normalisation over the channels of (B, C, H, W) goes through a permutation instead of
a mean and a variance by hand; the option that scales the head's first weights is left out.
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
GRN_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # (B, H, W, C) -> (B, C, H, W)


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its share of the energy of the whole map, so that channels compete: V2, section 4.

    The energy of a channel is the L2 norm of its map; its share is relative to the mean over the channels. The input is
    added, so that at its start, with gamma and beta 0, the layer is the identity.

    The paper's gamma * (x * share) + beta + x is computed with all that has no H and W first: two passes over the map.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.empty(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (B, H, W, C) -> (B, 1, 1, C)
        share = energy / (energy.mean(dim=-1, keepdim=True) + GRN_EPS)
        output: Tensor = x * (1 + self.gamma * share) + self.beta
        return output


class Block(nn.Module):
    """A 7x7 depthwise convolution mixes space, two linear layers mix channels: figure 4, right, and V2's figure 5.

    The 1x1 convolutions of the figure are linear layers on (B, H, W, C), as in the reference, which found them slightly
    faster; for tensors in `torch.channels_last` the permuted ones are contiguous, so that nothing is copied.
    """

    def __init__(self, dim: int, *, grn: bool, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(4 * dim) if grn else nn.Identity()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.empty(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.dwconv(x).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        branch = self.pwconv2(self.grn(self.act(self.pwconv1(self.norm(branch)))))
        if self.gamma is not None:
            branch = self.gamma * branch
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
        grn: global response normalisation inside each block, as V2 has it.
        layer_scale: start of the learned factor of each channel of a residual branch; None for no factors, as in V2.
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
        grn: bool = False,
        layer_scale: float | None = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError(f"ConvNeXt got image_size={image_size}, expected at least 32: it divides H and W by 32")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size

        stem = nn.Sequential(
            nn.Conv2d(in_channels, dims[0], kernel_size=4, stride=4), LayerNorm2d(dims[0], eps=NORM_EPS)
        )
        self.downsample_layers = nn.ModuleList([stem])
        for dim, next_dim in pairwise(dims):
            norm = LayerNorm2d(dim, eps=NORM_EPS)
            self.downsample_layers.append(nn.Sequential(norm, nn.Conv2d(dim, next_dim, kernel_size=2, stride=2)))
        rates = iter(drop_path_rates(drop_path, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim, grn=grn, layer_scale=layer_scale, drop_path=next(rates)) for _ in range(depth)])
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
        """Weights have std 0.02, biases are 0; normalisation starts at scale 1, shift 0, a GRN as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, GlobalResponseNorm):
                nn.init.zeros_(module.gamma)
                nn.init.zeros_(module.beta)
            elif isinstance(module, Block) and module.gamma is not None:
                assert module.layer_scale is not None
                nn.init.constant_(module.gamma, module.layer_scale)


v1 = partial(ConvNeXt, grn=False)
v2 = partial(ConvNeXt, grn=True, layer_scale=None)

convnext_tiny = partial(v1, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
convnext_small = partial(v1, depths=(3, 3, 27, 3), dims=(96, 192, 384, 768))
convnext_base = partial(v1, depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024))
convnext_large = partial(v1, depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536))

convnextv2_atto = partial(v2, depths=(2, 2, 6, 2), dims=(40, 80, 160, 320))
convnextv2_femto = partial(v2, depths=(2, 2, 6, 2), dims=(48, 96, 192, 384))
convnextv2_pico = partial(v2, depths=(2, 2, 6, 2), dims=(64, 128, 256, 512))
convnextv2_nano = partial(v2, depths=(2, 2, 8, 2), dims=(80, 160, 320, 640))
convnextv2_tiny = partial(v2, depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))
convnextv2_base = partial(v2, depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024))
