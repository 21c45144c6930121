"""ResNet equals torchvision's, and the networks for CIFAR the paper's formula: logits, gradients and first weights.

Whole networks are slow; in the default suite they have fewer blocks, of the published widths.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import resnet as reference

from linnaeus.models import create_model
from linnaeus.models.resnet import BasicBlock, Bottleneck, ResNet
from linnaeus.models.resnet_cifar import CifarResNet, ZeroPadding

from .peers import assert_exact_gradients, assert_same_gradients, assert_same_spread
from .reference import assert_same_logits, perturb

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"]
DEPTHS = (2, 1, 1, 1)
# Our block, torchvision's block, and its options there.
KINDS = {
    "basic": (BasicBlock, reference.BasicBlock, {}),
    "bottleneck": (Bottleneck, reference.Bottleneck, {}),
    "resnext": (
        partial(Bottleneck, groups=32, width_per_group=4),
        reference.Bottleneck,
        {"groups": 32, "width_per_group": 4},
    ),
    "wide": (partial(Bottleneck, width_per_group=128), reference.Bottleneck, {"width_per_group": 128}),
}


def pair(kind):
    ours, theirs, options = KINDS[kind]
    return (
        ResNet(num_classes=5, block=ours, depths=DEPTHS),
        reference.ResNet(theirs, list(DEPTHS), num_classes=5, **options),
    )


def with_the_same_weights(kind):
    ours, theirs = pair(kind)
    ours.load_state_dict(perturb(theirs).state_dict())
    return ours.eval(), theirs


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "resnext", pytest.param("wide", marks=pytest.mark.slow)])
def test_it_equals_torchvision(kind):
    ours, theirs = with_the_same_weights(kind)
    assert_same_logits(ours, theirs, 224)
    assert_same_logits(ours, theirs, 97)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [224, 160])
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_network_equals_torchvision(name, image_size):
    theirs = perturb(getattr(torchvision.models, name)(num_classes=5))
    ours = create_model(name, num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.parametrize("image_size", [32, 41])
def test_the_small_stem_equals_torchvision_with_its_stem_replaced(image_size):
    _, theirs = pair("basic")
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = ResNet(num_classes=5, image_size=image_size, block=BasicBlock, depths=DEPTHS).eval()
    ours.load_state_dict(perturb(theirs).state_dict())
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.parametrize("kind", ["basic", *[pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k != "basic"]])
def test_its_gradients_equal_those_of_torchvision(kind):
    assert_same_gradients(*with_the_same_weights(kind), 40)


@pytest.mark.parametrize("kind", ["basic", "resnext"])
def test_its_first_weights_are_distributed_as_those_of_torchvision(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert_same_spread(*pair(kind))


def cifar_resnet_by_hand(parameters, buffers, images, *, training):
    def conv_bn(x, conv, bn, stride=1):
        x = F.conv2d(x, parameters[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = buffers[f"{bn}.running_mean"], buffers[f"{bn}.running_var"]
        if training:
            mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        scale = parameters[f"{bn}.weight"] / (var + 1e-5).sqrt()
        return (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + parameters[f"{bn}.bias"].view(-1, 1, 1)

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
    return x.mean(dim=(2, 3)) @ parameters["fc.weight"].T + parameters["fc.bias"]


@pytest.mark.parametrize("image_size", [32, 41])
def test_a_cifar_network_equals_its_formula(image_size):
    ours = perturb(create_model("resnet20", num_classes=10))
    state = ours.state_dict()
    assert_same_logits(ours, partial(cifar_resnet_by_hand, state, state, training=False), image_size)


def test_the_gradients_of_a_cifar_network_equal_those_of_its_formula():
    ours = perturb(create_model("resnet20", num_classes=10)).double().train()
    parameters, buffers = dict(ours.named_parameters()), dict(ours.named_buffers())
    images, targets = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.arange(4)

    def gradients(logits):
        return torch.autograd.grad(F.cross_entropy(logits, targets), list(parameters.values()))

    expected = gradients(cifar_resnet_by_hand(parameters, buffers, images, training=True))
    largest = max(gradient.abs().max() for gradient in expected)
    for ours_, theirs in zip(gradients(ours(images)), expected, strict=True):
        assert (ours_ - theirs).abs().max() < 1e-10 * largest


def test_the_first_weights_of_a_cifar_network_are_those_of_he():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("resnet56", num_classes=10)
    for width, stage in ((16, model.layer1), (32, model.layer2), (64, model.layer3)):
        convolutions = torch.cat([block.conv2.weight.flatten() for block in stage])
        assert convolutions.std().item() == pytest.approx((2 / (9 * width)) ** 0.5, rel=0.02)
    assert model.conv1.weight.std().item() == pytest.approx((2 / 27) ** 0.5, rel=0.15)
    assert model.fc.weight.abs().max().item() == pytest.approx(64**-0.5, rel=0.02)


@pytest.mark.parametrize(
    "block",
    [
        BasicBlock(3, 3),
        BasicBlock(2, 4, stride=2),
        BasicBlock(2, 5, stride=2, shortcut=ZeroPadding),
        Bottleneck(4, 2, stride=2),
        Bottleneck(2, 2, groups=2, width_per_group=32),
    ],
    ids=["basic", "projection", "zero padding", "bottleneck", "grouped"],
)
def test_the_gradients_of_a_block_are_exact(block):
    assert_exact_gradients(block, 2, block.conv1.in_channels, 4, 3)


def test_the_shortcut_without_parameters_keeps_every_second_pixel_between_zeros():
    x = torch.randn(1, 2, 5, 4)
    expected = torch.zeros(1, 5, 3, 2)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    assert torch.equal(ZeroPadding(2, 5, stride=2)(x), expected)
    assert torch.equal(ZeroPadding(2, 2, stride=1)(x), x)


def test_a_depth_that_is_not_6n_plus_2_is_refused():
    with pytest.raises(ValueError, match=r"depth=21, expected 6n \+ 2: 8, 14, 20"):
        CifarResNet(num_classes=10, depth=21)


@pytest.mark.parametrize(("image_size", "stride"), [(32, 1), (64, 1), (65, 2), (224, 2)])
def test_the_stem_follows_the_image_size(image_size, stride):
    with torch.device("meta"):
        model = create_model("resnet18", num_classes=5, image_size=image_size)
    assert model.conv1.stride == (stride, stride)


def test_the_stem_can_be_chosen_against_the_image_size():
    with torch.device("meta"):
        imagenet = create_model("resnet18", num_classes=5, image_size=32, stem="imagenet")
        small = create_model("resnet18", num_classes=5, image_size=224, stem="small")
    assert (imagenet.conv1.kernel_size, small.conv1.kernel_size) == ((7, 7), (3, 3))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_zero_init_last_makes_every_block_start_as_its_shortcut(name):
    model = create_model(name, num_classes=5, image_size=32, zero_init_last=True).eval()
    block = model.blocks[1]
    x = torch.rand(2, block.conv1.in_channels, 4, 4)
    assert torch.equal(block(x), x)
    assert all(not block.last_bn.weight.any() for block in model.blocks)
