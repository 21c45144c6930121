"""What the attention of a Transformer looks at: rollout, and attention weighted by gradients.

Rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, arXiv:2005.00928, section 3: mean
over the heads, half of it replaced by the identity for the shortcut, multiplied from layer to layer. It knows no class.

Gradient-weighted: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
Encoder-Decoder Transformers", ICCV 2021, arXiv:2103.15679, equations 5 and 6 for self-attention: heads are weighted by
the gradient of the class's logit, and what is negative is cut off.

The networks compute attention in fused kernels, which never hold the weights. These are computed beside the network,
from the queries and keys that it used, and their gradients by the chain rule from that of what attention returns:
the network runs as it always does. That they are its own is checked, by what its attention returned.

Shapes: B images, N tokens, H heads, d = D / H, D width; h and w count patches along height and width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linnaeus.core.capture import capture
from linnaeus.core.classifier import Classifier
from linnaeus.core.errors import RequestError

_HOW = "choose --method occlusion or integrated-gradients, which suit any network"
_TOLERANCE = 1e-3  # of the largest value, for the rounding of fused kernels


@dataclass(frozen=True)
class _Layer:
    """The weights of one layer's attention, and their gradients, both (B, H, N, N)."""

    weights: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class _Pass:
    """What one forward and backward pass showed.

    Attributes:
        layers: from the first to the last.
        share: (B, N), how much of each token the head sees: all of the class token, or as much of each patch.
        grid: (h, w).
    """

    layers: list[_Layer]
    share: Tensor
    grid: tuple[int, int]


def rollout(model: Classifier, images: Tensor) -> Tensor:
    """How much of each patch reaches what the head sees; of no class.

    Args:
        model: a Vision Transformer, in evaluation mode; not compiled.
        images: (B, C, H, W) float, normalised.

    Returns:
        (B, h, w) float32, at least 0.

    Raises:
        RequestError: if the network has no attention that can be read.
    """
    seen = _look(model, images, classes=None)
    flow = torch.eye(seen.share.shape[1], device=images.device)
    for layer in seen.layers:
        step = (layer.weights.mean(1) + torch.eye(len(flow[-1]), device=images.device)) / 2  # (B, H, N, N) -> (B, N, N)
        flow = step @ flow
    return _to_patches(flow, seen)


def weighted_attention(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """How much each patch counts for a class.

    Args:
        model: a Vision Transformer, in evaluation mode; not compiled.
        images: (B, C, H, W) float, normalised.
        classes: (B,) int64, the class that is looked for in each image.

    Returns:
        (B, h, w) float32, at least 0; all 0 where no attention speaks for the class.

    Raises:
        RequestError: if the network has no attention that can be read.
    """
    seen = _look(model, images, classes)
    relevance = torch.eye(seen.share.shape[1], device=images.device)
    for layer in seen.layers:
        step = (layer.gradients * layer.weights).relu().mean(1)  # (B, H, N, N) -> (B, N, N)
        relevance = relevance + step @ relevance
    # Without the identity, which says of patches that the head sees no more than that it sees them.
    return _to_patches(relevance - torch.eye(relevance.shape[-1], device=images.device), seen)


def attention_layers(model: nn.Module) -> list[str]:
    """Names of the self-attentions that can be read, in order: those with `qkv`, `proj` and `num_heads`, as timm's."""
    return [
        name
        for name, module in model.named_modules()
        if {"qkv", "proj"} <= dict(module.named_children()).keys() and "num_heads" in vars(module)
    ]


def _look(model: Classifier, images: Tensor, classes: Tensor | None) -> _Pass:
    """One pass; without classes, gradients are those of the sum of all logits."""
    names = attention_layers(model)
    if not names:
        raise RequestError(f"{type(model).__name__} has no attention that can be read: {_HOW}")
    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    last = next(name for name, module in model.named_modules() if module is model.blocks[-1])
    inner = [f"{name}.{part}" for name in names for part in ("qkv", "proj")]
    with torch.enable_grad(), capture(model, stem, *inner, last, gradients=True) as seen:
        logits = model(images.detach().requires_grad_())
        score = logits if classes is None else logits.gather(1, classes[:, None])
        score.sum().backward(inputs=list(seen.values()))
    layers = [_read(name, model.get_submodule(name), seen) for name in names]
    tokens, (h, w), gradient = layers[-1].weights.shape[-1], seen[stem].shape[-2:], seen[last].grad
    if len({layer.weights.shape[-1] for layer in layers}) > 1 or h * w > tokens or gradient is None:
        raise RequestError(f"the tokens of {type(model).__name__} are not the patches of its first layer: {_HOW}")
    # Of the tokens that leave the last block, the head sees those that a gradient comes back to.
    share = (gradient.abs().sum(-1) > 0).float()  # (B, N, D) -> (B, N)
    return _Pass(layers, share / share.sum(1, keepdim=True).clamp(min=1), (h, w))


@torch.no_grad()
def _read(name: str, attention: nn.Module, seen: Mapping[str, Tensor]) -> _Layer:
    """From what `qkv` and `proj` returned; refused if `proj` would have returned something else."""
    heads, proj = int(vars(attention)["num_heads"]), attention.get_submodule("proj")
    match seen.get(f"{name}.qkv"), seen.get(f"{name}.proj"), proj:  # a layer whose weights alone are used has no output
        case Tensor() as qkv, Tensor(ndim=3) as mixed, nn.Linear() if qkv.shape[-1] == 3 * mixed.shape[-1]:
            B, N, D = mixed.shape  # noqa: N806
        case _:
            raise RequestError(f"{name} is no plain self-attention: {_HOW}")
    q_BHNd, k_BHNd, v_BHNd = qkv.reshape(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)  # noqa: N806
    weights = (q_BHNd @ k_BHNd.transpose(-2, -1) / math.sqrt(D // heads)).softmax(-1)  # (B, H, N, N)
    again = proj((weights @ v_BHNd).transpose(1, 2).reshape(B, N, D))
    if not torch.allclose(again, mixed, rtol=0, atol=_TOLERANCE * float(mixed.abs().max())):
        raise RequestError(f"{name} does more than plain self-attention: {_HOW}")
    assert mixed.grad is not None  # `capture` has seen to it
    sent_back = (mixed.grad @ proj.weight).reshape(B, N, heads, D // heads).transpose(1, 2)  # (B, N, D) -> (B, H, N, d)
    return _Layer(weights, sent_back @ v_BHNd.transpose(-2, -1))


def _to_patches(flow: Tensor, seen: _Pass) -> Tensor:
    """(B, N, N), a row for each token that leaves the last block, over those that entered the first -> (B, h, w)."""
    h, w = seen.grid
    reached = (seen.share[:, None] @ flow)[:, 0]  # (B, 1, N) @ (B, N, N) -> (B, N)
    return reached[:, -h * w :].reshape(-1, h, w).float()  # class token and registers come first
