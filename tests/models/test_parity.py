"""Logits equal those of an independent implementation with the same weights, in evaluation, to float32's rounding.

The reference is torchvision, or the paper's formula written out with `torch.nn.functional`.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from linnaeus.models import create_model
from linnaeus.models.vit import VisionTransformer

from .reference import assert_same_logits, perturb, rename


@pytest.mark.parametrize("image_size", [64, 96])
@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnext50_32x4d", pytest.param("wide_resnet50_2", marks=pytest.mark.slow)],
)
def test_resnet_equals_torchvision(name, image_size):
    theirs = perturb(getattr(torchvision.models, name)(num_classes=5))
    ours = create_model(name, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.parametrize("image_size", [32, 64])
def test_resnet_with_the_small_stem_equals_torchvision_with_its_stem_replaced(image_size):
    theirs = torchvision.models.resnet18(num_classes=5)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    perturb(theirs)
    ours = create_model("resnet18", num_classes=5, image_size=image_size).eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, image_size)


CONVNEXT_RULES = [
    (r"^features\.0\.", "downsample_layers.0."),
    (r"^features\.([246])\.", lambda m: f"downsample_layers.{int(m[1]) // 2}."),
    (r"^features\.([1357])\.", lambda m: f"stages.{int(m[1]) // 2}."),
    (r"\.block\.0\.", ".dwconv."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".pwconv1."),
    (r"\.block\.5\.", ".pwconv2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "norm."),
    (r"^classifier\.2\.", "head."),
]


@pytest.mark.parametrize("image_size", [64, 80])
def test_convnext_equals_torchvision(image_size):
    theirs = perturb(torchvision.models.convnext_tiny(num_classes=5))
    ours = create_model("convnext_tiny", num_classes=5).eval()
    state = rename(theirs.state_dict(), CONVNEXT_RULES)
    ours.load_state_dict({key: t.flatten() if key.endswith("gamma") else t for key, t in state.items()})
    assert_same_logits(ours, theirs, image_size)


VIT_RULES = [
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
]


@pytest.mark.parametrize(("image_size", "patch_size"), [(64, 16), (96, 32)])
def test_vit_equals_torchvision(image_size, patch_size):
    theirs = torchvision.models.VisionTransformer(
        image_size=image_size,
        patch_size=patch_size,
        num_layers=4,
        num_heads=6,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=5,
    )
    perturb(theirs)
    ours = VisionTransformer(num_classes=5, image_size=image_size, patch_size=patch_size, dim=192, depth=4, num_heads=6)
    ours.load_state_dict(rename(theirs.state_dict(), VIT_RULES))
    assert_same_logits(ours.eval(), theirs, image_size)


def lenet_by_hand(model, images, *, modern):
    p = dict(model.state_dict())

    def stage(x, name, padding):
        x = F.conv2d(x, p[f"{name}.conv.weight"], p.get(f"{name}.conv.bias"), padding=padding)
        if not modern:
            return F.avg_pool2d(x.tanh(), 2)
        mean, var = p[f"{name}.norm.running_mean"], p[f"{name}.norm.running_var"]
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()
        x = x * p[f"{name}.norm.weight"].view(-1, 1, 1) + p[f"{name}.norm.bias"].view(-1, 1, 1)
        return F.max_pool2d(x.relu(), 2)

    act = torch.relu if modern else torch.tanh
    x = stage(stage(images, "c1", (32 - images.shape[-1]) // 2), "c3", 0).flatten(1)
    x = act(x @ p["c5.weight"].T + p["c5.bias"])
    x = act(x @ p["f6.weight"].T + p["f6.bias"])
    return x @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("image_size", [28, 32])
@pytest.mark.parametrize("modern", [False, True])
def test_lenet_equals_its_formula(modern, image_size):
    name = "lenet5_modern" if modern else "lenet5"
    ours = perturb(create_model(name, num_classes=10, in_channels=1, image_size=image_size))
    assert_same_logits(ours, lambda x: lenet_by_hand(ours, x, modern=modern), image_size, in_channels=1)


def cifar_resnet_by_hand(model, images):
    p = model.state_dict()

    def conv_bn(x, conv, bn, stride=1):
        x = F.conv2d(x, p[f"{conv}.weight"], stride=stride, padding=1)
        statistics = p[f"{bn}.running_mean"], p[f"{bn}.running_var"]
        return F.batch_norm(x, *statistics, p[f"{bn}.weight"], p[f"{bn}.bias"])

    x = conv_bn(images, "conv1", "bn1").relu()
    for stage, width in enumerate((16, 32, 64), start=1):
        for i in range(3):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            branch = conv_bn(x, f"{block}.conv1", f"{block}.bn1", stride).relu()
            branch = conv_bn(branch, f"{block}.conv2", f"{block}.bn2")
            if stride == 2:
                quarter = torch.zeros_like(branch[:, : width // 4])
                x = torch.cat([quarter, x[:, :, ::2, ::2], quarter], dim=1)
            x = (branch + x).relu()
    return x.mean(dim=(2, 3)) @ p["fc.weight"].T + p["fc.bias"]


def test_a_cifar_network_equals_its_formula():
    ours = perturb(create_model("resnet20", num_classes=10))
    assert_same_logits(ours, lambda x: cifar_resnet_by_hand(ours, x), 32)
