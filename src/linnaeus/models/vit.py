"""Vision Transformer: the image as a sequence of patches, a class token, and a Transformer encoder.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, section 3.1 and table 1; tiny and
small are from Touvron et al., "Training data-efficient image transformers", ICML 2021, arXiv:2012.12877, table 1.

Shapes: B batch, C channels, N tokens, D width of the features, K classes; in attention H is heads and d = D / H.
Parameters have timm's names.

What differs from the paper:
- Attention and MLP have no dropout; stochastic depth (arXiv:1603.09382) is the regulariser.
- There is no hidden layer before the head (the paper's pre-training has one).
- Layer scale (Touvron et al., "Going deeper with Image Transformers", arXiv:2103.17239) is an option.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.core.classifier import Classifier
from linnaeus.models.layers import DropPath, drop_path_rates

NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Cuts the image into patches and projects each: a convolution whose stride is its kernel."""

    def __init__(self, *, image_size: int, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        if image_size % patch_size != 0 or image_size < patch_size:
            below = max(image_size // patch_size, 1) * patch_size
            raise ValueError(
                f"image_size={image_size} is not a multiple of patch_size={patch_size}: "
                f"choose image_size={below} or {below + patch_size}, or another patch_size"
            )
        self.image_size = image_size
        self.num_patches = (image_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images are {images.shape[-2]}x{images.shape[-1]} pixels, but the position table is for "
                f"{self.image_size}x{self.image_size}: resize them, or build the network with their image_size"
            )
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)  # (B, D, H, W) -> (B, N, D)
        return patches


class Attention(nn.Module):
    """Multi-head self-attention.

    `scaled_dot_product_attention` chooses the kernel. On the CPU it is a fused one, which never holds the N x N matrix,
    for every floating type. On CUDA it is FlashAttention's or cuDNN's for bfloat16 and float16 and a memory-efficient
    one for float32; plain matrix products remain for float64 and for GPUs without the fused kernels.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads != 0:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}: each head needs equal width")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads)
        q_BHNd, k_BHNd, v_BHNd = qkv.permute(2, 0, 3, 1, 4)  # noqa: N806  (B, N, 3, H, d) -> (3, B, H, N, d)
        out_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd)  # noqa: N806
        mixed: Tensor = self.proj(out_BHNd.transpose(1, 2).reshape(B, N, D))  # (B, H, N, d) -> (B, N, D)
        return mixed


class Mlp(nn.Module):
    """Two linear layers with GELU between them, token by token; the hidden width is 4 D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(self.act(self.fc1(x)))
        return output


class LayerScale(nn.Module):
    """A learned factor for each channel of a residual branch, which starts small: `initial`."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """One layer of the encoder, normalised before attention and before the MLP: equations 2 and 3."""

    def __init__(self, dim: int, num_heads: int, *, layer_scale: float | None, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        output: Tensor = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return output


class VisionTransformer(Classifier):
    """The Transformer encoder on patches.

    Args:
        num_classes: K.
        in_channels: C.
        image_size: pixels, a multiple of `patch_size`; the network accepts no other size.
        patch_size: pixels.
        dim: D.
        depth: number of blocks.
        num_heads: H, a divisor of `dim`.
        pool: what the head sees: "token", the normalised class token; or "avg", the normalised average of the
            patches (the class token stays and attends, as in timm).
        layer_scale: start of the factors of the residual branches, such as 1e-5; None for no factors.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int,
        depth: int,
        num_heads: int,
        pool: Literal["token", "avg"] = "token",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if pool not in ("token", "avg"):
            raise ValueError(f"VisionTransformer got pool='{pool}', expected 'token' or 'avg'")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.pool = pool

        self.patch_embed = PatchEmbed(image_size=image_size, patch_size=patch_size, in_channels=in_channels, dim=dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.patch_embed.num_patches, dim))
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, layer_scale=layer_scale, drop_path=rate) for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS) if pool == "token" else nn.Identity()
        self.fc_norm = nn.LayerNorm(dim, eps=NORM_EPS) if pool == "avg" else nn.Identity()
        self.head = nn.Linear(dim, num_classes)
        self.init_weights()

    def features(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)  # (B, C, H, W) -> (B, N - 1, D)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed  # (B, N, D)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x[:, 0] if self.pool == "token" else x[:, 1:].mean(dim=1)  # (B, N, D) -> (B, D)
        features: Tensor = self.fc_norm(x)
        return features

    def init_weights(self) -> None:
        """As timm: linear weights and positions have std 0.02, biases are 0, the patch projection is PyTorch's own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.initial)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)


vit_tiny = partial(VisionTransformer, dim=192, depth=12, num_heads=3)
vit_small = partial(VisionTransformer, dim=384, depth=12, num_heads=6)
vit_base = partial(VisionTransformer, dim=768, depth=12, num_heads=12)
vit_large = partial(VisionTransformer, dim=1024, depth=24, num_heads=16)
