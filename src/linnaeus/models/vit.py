"""Vision Transformer: the image as a sequence of patches, a class token, and a Transformer encoder.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, section 3.1 and table 1; tiny and
small are from Touvron et al., "Training data-efficient image transformers", ICML 2021, arXiv:2012.12877, table 1;
registers from Darcet et al., "Vision Transformers Need Registers", ICLR 2024, arXiv:2309.16588, section 2.2.

Shapes: B batch, C channels, N tokens, D width of the features, K classes; h and w count patches along height and
width; in attention H is heads and d = D / H. Tokens are in timm's order: class token, registers, patches.
Parameters have timm's names.

What differs from the paper:
- Attention and MLP have no dropout; stochastic depth (arXiv:1603.09382) is the regulariser.
- There is no hidden layer before the head (the paper's pre-training has one).
- For images of another size positions are resized as timm does it, bicubic with antialiasing.
- Layer scale (Touvron et al., "Going deeper with Image Transformers", arXiv:2103.17239) is an option.
"""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import profile

from linnaeus.core.classifier import Classifier
from linnaeus.models.layers import DropPath, drop_path_rates

NORM_EPS = 1e-6
KERNEL_PREFIX = "aten::_scaled_dot_product_"  # every kernel of PyTorch's attention is named so


class PatchEmbed(nn.Module):
    """Cuts the image into patches and projects each: a convolution whose stride is its kernel."""

    def __init__(self, *, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"patch_size is {patch_size}, expected at least 1, such as the published 8, 14, 16 or 32")
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of an image of so many pixels; a ValueError if the last patches would be cut off."""
        for pixels in (height, width):
            if pixels % self.patch_size != 0 or pixels < self.patch_size:
                below = max(pixels // self.patch_size, 1) * self.patch_size
                raise ValueError(
                    f"images are {height}x{width} pixels, and {pixels} is not a multiple of patch_size="
                    f"{self.patch_size}: choose {below} or {below + self.patch_size} pixels, or another patch_size"
                )
        return height // self.patch_size, width // self.patch_size

    def forward(self, images: Tensor) -> Tensor:
        patches: Tensor = self.proj(images).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h * w, D)
        return patches


def resize_position_embedding(pos_embed: Tensor, grid: tuple[int, int], *, num_prefix: int) -> Tensor:
    """The positions for another grid of patches: bicubic, antialiased, in at least float32, as timm resizes them.

    CUDA has no deterministic gradient of it: to train at another size, build the network for that size.

    Args:
        pos_embed: (1, num_prefix + n * n, D) floating, for a square grid of patches.
        grid: (h, w).
        num_prefix: how many rows come before those of the patches; they stay as they are.

    Returns:
        (1, num_prefix + h * w, D) of the same type; `pos_embed` itself if that is its own grid.

    Raises:
        ValueError: if the number of rows for patches is no square.
    """
    prefix, patches = pos_embed[:, :num_prefix], pos_embed[:, num_prefix:]
    n = math.isqrt(patches.shape[1])
    if n == 0 or n * n != patches.shape[1]:
        raise ValueError(
            f"pos_embed has {pos_embed.shape[1]} rows, and less num_prefix={num_prefix} they are no square grid: "
            "check num_prefix, which counts the class token and the registers that have positions"
        )
    if grid == (n, n):
        return pos_embed
    table = patches.reshape(1, n, n, -1).permute(0, 3, 1, 2)  # (1, n * n, D) -> (1, D, n, n)
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    table = F.interpolate(table, size=grid, mode="bicubic", antialias=True).to(pos_embed.dtype)
    return torch.cat([prefix, table.flatten(2).transpose(1, 2)], dim=1)  # (1, D, h, w) -> (1, h * w, D)


class Attention(nn.Module):
    """Multi-head self-attention.

    `scaled_dot_product_attention` chooses the kernel, and `attention_backend` shows which. On CUDA it is FlashAttention
    for bfloat16 and float16 (or cuDNN's, which recent versions prefer on data-centre Hopper and Blackwell GPUs), a
    memory-efficient one for float32, and plain matrix products for float64. On the CPU it is FlashAttention for every
    floating type. Only the plain products hold the N x N matrix, and only they have a second derivative: whoever needs
    one chooses them with `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
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


def attention_backend(model: nn.Module, images: Tensor) -> str:
    """The kernel that attention runs with, as PyTorch's profiler sees it in one forward pass.

    The choice depends on device, type, shape and gradients: call it as the network will be, in the same autocast and
    grad mode. PyTorch's names are "flash_attention", "cudnn_attention", "efficient_attention", "attention_math" (plain
    matrix products), on the CPU "flash_attention_for_cpu"; if there are several, commas join them.

    Raises:
        ValueError: if the network has no attention, or not this one.
    """
    with profile() as seen:
        model(images)
    names = {event.name for event in seen.function_events or () if event.name.startswith(KERNEL_PREFIX)}
    if not names:
        raise ValueError(f"{type(model).__name__} made no call of scaled_dot_product_attention: expected a Transformer")
    return ", ".join(sorted(name.removeprefix(KERNEL_PREFIX) for name in names))


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
        image_size: pixels, a multiple of `patch_size`. The positions are learned for it, and resized for images of
            another height or width, which must be multiples too.
        patch_size: pixels; 32, 16 and 14 are the paper's, 8 is DINO's (arXiv:2104.14294).
        dim: D.
        depth: number of blocks.
        num_heads: H, a divisor of `dim`.
        pool: what the head sees: "token", the normalised class token; "avg", the normalised average of the patches;
            "norm_avg", the average of the normalised patches (timm's `fc_norm=False`).
        class_token: whether there is one; `pool="token"` needs it.
        num_registers: tokens that attention may use as scratch space and the head never sees; the paper has 4.
        prefix_positions: whether class token and registers have positions as well; the published networks with
            registers and DeiT III (arXiv:2204.07118) have none (timm's `no_embed_class=True`).
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
        pool: Literal["token", "avg", "norm_avg"] = "token",
        class_token: bool = True,
        num_registers: int = 0,
        prefix_positions: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _check_tokens(pool, class_token, num_registers, prefix_positions)
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.pool = pool
        self.num_prefix = class_token + num_registers
        self.num_prefix_positions = self.num_prefix if prefix_positions else 0

        self.patch_embed = PatchEmbed(patch_size=patch_size, in_channels=in_channels, dim=dim)
        self.grid = self.patch_embed.grid(image_size, image_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.pos_embed = nn.Parameter(torch.empty(1, self.num_prefix_positions + math.prod(self.grid), dim))
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, layer_scale=layer_scale, drop_path=rate) for rate in drop_path_rates(drop_path, depth)
        )
        self.norm = nn.Identity() if pool == "avg" else nn.LayerNorm(dim, eps=NORM_EPS)
        self.fc_norm = nn.LayerNorm(dim, eps=NORM_EPS) if pool == "avg" else nn.Identity()
        self.head = nn.Linear(dim, num_classes)
        self.init_weights()

    def tokens(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, N, D): what enters the first block, equation 1."""
        grid = self.patch_embed.grid(*images.shape[-2:])
        patches = self.patch_embed(images)  # (B, C, H, W) -> (B, h * w, D)
        prefix = [t.expand(patches.shape[0], -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        positions = resize_position_embedding(self.pos_embed, grid, num_prefix=self.num_prefix_positions)
        if self.num_prefix_positions == 0:
            return torch.cat([*prefix, patches + positions], dim=1)
        return torch.cat([*prefix, patches], dim=1) + positions

    def features(self, images: Tensor) -> Tensor:
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        x = x[:, 0] if self.pool == "token" else x[:, self.num_prefix :].mean(dim=1)  # (B, N, D) -> (B, D)
        features: Tensor = self.fc_norm(x)
        return features

    def init_weights(self) -> None:
        """As timm: linear weights and positions have std 0.02, biases are 0, the patch projection is PyTorch's own.

        timm's normal draws are cut at 2, which is a hundred standard deviations: that is, not at all.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.Conv2d):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.initial)
        nn.init.normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=1e-6)


def _check_tokens(pool: str, class_token: bool, num_registers: int, prefix_positions: bool) -> None:
    """Refuses combinations that cannot work or would have no effect."""
    if pool not in ("token", "avg", "norm_avg"):
        raise ValueError(f"VisionTransformer got pool='{pool}', expected 'token', 'avg' or 'norm_avg'")
    if pool == "token" and not class_token:
        raise ValueError("pool='token' needs the class token: choose class_token=True, or pool='avg' or 'norm_avg'")
    if num_registers < 0:
        raise ValueError(f"num_registers is {num_registers}, expected at least 0")
    if not prefix_positions and not class_token and num_registers == 0:
        raise ValueError("prefix_positions=False has no effect without a class token and registers: leave it out")


vit_tiny = partial(VisionTransformer, dim=192, depth=12, num_heads=3)
vit_small = partial(VisionTransformer, dim=384, depth=12, num_heads=6)
vit_base = partial(VisionTransformer, dim=768, depth=12, num_heads=12)
vit_large = partial(VisionTransformer, dim=1024, depth=24, num_heads=16)
