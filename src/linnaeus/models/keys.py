"""The other public layouts of our networks' weights: how their names and shapes become ours.

Our own names are torchvision's (and so timm's) for ResNet, timm's for ViT and the reference's for ConvNeXt: such files
need nothing. For each other layout `LAYOUTS` has the rules, as text: nothing of those libraries is imported.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from linnaeus.core.classifier import Classifier


class Layout(NamedTuple):
    """A way of naming the parameters of one family.

    Attributes:
        mark: a key that every file of this layout has and no file of another one.
        rules: regular expressions and their replacements, applied to each key one after the other.
    """

    mark: str
    rules: tuple[tuple[str, str], ...]


LAYOUTS: dict[str, Layout] = {
    "ViT of torchvision": Layout(
        "conv_proj.weight",
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"^encoder\.ln\.", "norm."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),  # numbers in its networks, words in the files it publishes
            (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
            (r"^heads\.head\.", "head."),
        ),
    ),
    "ConvNeXt of timm": Layout(
        "stages.0.blocks.0.conv_dw.weight",
        (
            (r"^stem\.", "downsample_layers.0."),
            (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
            (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
            (r"\.conv_dw\.", ".dwconv."),
            (r"\.mlp\.fc([12])\.", r".pwconv\1."),
            (r"\.mlp\.grn\.weight$", ".grn.gamma"),
            (r"\.mlp\.grn\.bias$", ".grn.beta"),
            (r"^head\.norm\.", "norm."),
            (r"^head\.fc\.", "head."),
        ),
    ),
    "ConvNeXt of torchvision": Layout(
        "features.1.0.layer_scale",
        (
            (r"^features\.0\.", "downsample_layers.0."),
            (r"^features\.1\.", "stages.0."),
            (r"^features\.2\.", "downsample_layers.1."),
            (r"^features\.3\.", "stages.1."),
            (r"^features\.4\.", "downsample_layers.2."),
            (r"^features\.5\.", "stages.2."),
            (r"^features\.6\.", "downsample_layers.3."),
            (r"^features\.7\.", "stages.3."),
            (r"\.block\.0\.", ".dwconv."),
            (r"\.block\.2\.", ".norm."),
            (r"\.block\.3\.", ".pwconv1."),
            (r"\.block\.5\.", ".pwconv2."),
            (r"\.layer_scale$", ".gamma"),
            (r"^classifier\.0\.", "norm."),
            (r"^classifier\.2\.", "head."),
        ),
    ),
    # Its first block widens nothing, is a class of its own there, and has other names for the same layers.
    "EfficientNet-Lite of timm": Layout(
        "blocks.0.0.conv_dw.weight",
        (
            (r"^blocks\.0\.0\.conv_pw\.", "blocks.0.0.conv_pwl."),
            (r"^blocks\.0\.0\.bn2\.", "blocks.0.0.bn3."),
            (r"^blocks\.0\.0\.bn1\.", "blocks.0.0.bn2."),
            (r"^classifier\.", "head."),
        ),
    ),
    "EfficientNet-Lite of lukemelas/EfficientNet-PyTorch": Layout(
        "_conv_stem.weight",
        (
            (r"^_conv_", "conv_"),
            (r"^_blocks\.", "blocks."),
            (r"\._expand_conv\.", ".conv_pw."),
            (r"\._depthwise_conv\.", ".conv_dw."),
            (r"\._project_conv\.", ".conv_pwl."),
            (r"(^|\.)_bn0\.", r"\1bn1."),
            (r"(^|\.)_bn1\.", r"\1bn2."),
            (r"(^|\.)_bn2\.", r"\1bn3."),
            (r"^_fc\.", "head."),
        ),
    ),
}


def to_ours(model: Classifier, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a public file under the names, and in the shapes, that `model` has for them.

    A layout is taken for what its keys say. Where shapes differ in dimensions of size 1 only, as between a linear layer
    and a 1x1 convolution, the tensor is viewed in our shape. All else stays as it is, for the caller to judge: a key
    that no rule knows, a tensor of another size, and the whole of a state dict that is already ours or of no known
    layout.

    Args:
        model: the network that the weights are for.
        state: the state dict of the file.

    Returns:
        A new dict, in the order of `state`. Its tensors may share the memory of those of `state`.
    """
    ours = model.state_dict()
    for mark, rules in LAYOUTS.values():
        if mark in state:
            names = dict(zip(state, _numbered_through([_renamed(key, rules) for key in state]), strict=True))
            if names[mark] in ours:
                return {names[key]: _in_shape_of(ours.get(names[key]), tensor) for key, tensor in state.items()}
    return dict(state)


def _renamed(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _numbered_through(keys: Sequence[str]) -> list[str]:
    """Blocks that are numbered within stages, as in `blocks.3.1.bn1.weight`, become `blocks.N`. Other keys stay."""
    matches = [re.match(r"blocks\.(\d+)\.(\d+)\.", key) for key in keys]
    places = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    numbers = {f"blocks.{stage}.{position}.": f"blocks.{n}." for n, (stage, position) in enumerate(places)}
    return [numbers[match[0]] + key[match.end() :] if match else key for key, match in zip(keys, matches, strict=True)]


def _in_shape_of(wanted: Tensor | None, tensor: Tensor) -> Tensor:
    if wanted is None or [n for n in wanted.shape if n != 1] != [n for n in tensor.shape if n != 1]:
        return tensor
    return tensor.reshape(wanted.shape)
