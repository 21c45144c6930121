"""Parameters and multiply-accumulates are the published ones, for every name in MODELS: parameters exactly.

Sources: torchvision's and timm's model tables for 1000 classes; for the CIFAR networks table 6 of the ResNet paper
(0.27, 0.46, 0.66, 0.85 and 1.7 million), to the last parameter by the sum in its test here; LeNet-5 by the sum in its
test. Nothing is allocated: the networks are on the meta device.
"""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from linnaeus.models import MODELS, create_model

AT_1000_CLASSES = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
    "vit_large": 304_326_632,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnextv2_atto": 3_708_400,
    "convnextv2_femto": 5_233_240,
    "convnextv2_pico": 9_066_280,
    "convnextv2_nano": 15_623_800,
    "convnextv2_tiny": 28_635_496,
    "convnextv2_base": 88_717_800,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}
CIFAR_AT_10_CLASSES = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
AIRBENCH_AT_10_CLASSES = 1_971_352  # beside the 288 values of its filters, which are measured
LENET_AT_10_CLASSES = {"lenet5": 61_706, "lenet5_modern": 61_728}


def count(name, **sizes):
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **sizes).parameters())


@pytest.mark.parametrize(("name", "published"), AT_1000_CLASSES.items())
def test_the_count_at_1000_classes_is_the_published_one(name, published):
    assert count(name, num_classes=1000) == published


@pytest.mark.parametrize(("name", "published"), CIFAR_AT_10_CLASSES.items())
def test_the_count_of_a_cifar_network_is_the_published_one(name, published):
    assert count(name, num_classes=10) == published


@pytest.mark.parametrize("name", CIFAR_AT_10_CLASSES)
def test_the_count_of_a_cifar_network_by_hand(name):
    n = (int(name.removeprefix("resnet")) - 2) // 6
    stem = 3 * 16 * 9 + 2 * 16
    first_stage = 2 * n * (16 * 16 * 9 + 2 * 16)
    later_stages = sum(w // 2 * w * 9 + (2 * n - 1) * w * w * 9 + 2 * n * 2 * w for w in (32, 64))
    assert CIFAR_AT_10_CLASSES[name] == stem + first_stage + later_stages + 64 * 10 + 10


def test_the_count_of_lenet_by_hand():
    convolutions = (25 * 1 + 1) * 6 + (25 * 6 + 1) * 16
    linear = (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    assert count("lenet5", num_classes=10, in_channels=1) == convolutions + linear == LENET_AT_10_CLASSES["lenet5"]


def test_the_count_of_airbench_by_hand():
    groups = ((24 * 64 + 64 * 64), (64 * 256 + 256 * 256), (256 * 256 + 256 * 256))  # 3x3 kernels; shifts, no scales
    shifts = 2 * (64 + 256 + 256)
    assert count("airbench94", num_classes=10) == 9 * sum(groups) + shifts + 24 + 256 * 10 == AIRBENCH_AT_10_CLASSES


def test_modern_lenet_has_a_scale_and_a_shift_where_the_classic_has_a_bias():
    expected = LENET_AT_10_CLASSES["lenet5"] + 6 + 16
    assert count("lenet5_modern", num_classes=10, in_channels=1) == expected == LENET_AT_10_CLASSES["lenet5_modern"]


def test_every_name_is_counted():
    assert {*AT_1000_CLASSES, *CIFAR_AT_10_CLASSES, *LENET_AT_10_CLASSES, "airbench94"} == set(MODELS)


# Billions of multiply-accumulates for one image at the default size: `_ops` of torchvision's weights.
TORCHVISION_GMACS = {
    "resnet18": "1.814",
    "resnet34": "3.664",
    "resnet50": "4.089",
    "resnet101": "7.801",
    "resnet152": "11.514",
    "resnext50_32x4d": "4.230",
    "wide_resnet50_2": "11.398",
    "vit_base": "17.564",
    "vit_large": "61.555",
    "convnext_tiny": "4.456",
    "convnext_small": "8.684",
    "convnext_base": "15.355",
    "convnext_large": "34.361",
}
# The same at the given size in timm's table results/benchmark-infer-amp-nhwc-pt113-cu117-rtx3090.csv. It was made with
# fvcore, which adds 2 for each value that batch normalisation scales and 5 for each of layer normalisation.
TIMM_GMACS = {
    "vit_tiny": (224, "1.26"),
    "vit_small": (224, "4.61"),
    "convnextv2_atto": (288, "0.91"),
    "convnextv2_femto": (288, "1.30"),
    "convnextv2_pico": (288, "2.27"),
    "convnextv2_nano": (288, "4.06"),
    "convnextv2_tiny": (288, "7.39"),
    "convnextv2_base": (288, "25.43"),
    "efficientnet_lite0": (224, "0.40"),
    "efficientnet_lite1": (240, "0.62"),
    "efficientnet_lite2": (260, "0.89"),
}
NORMALISATION = {nn.BatchNorm2d: 2, nn.LayerNorm: 5}
# Each operation passes through Python, and these have hundreds.
DEEP = {"resnet101", "resnet152", "resnet110", "vit_large", "convnext_small", "convnext_base", "convnext_large"}
DEEP |= {"convnextv2_base"}


def marked(name, *row):
    return pytest.param(name, *row, marks=[pytest.mark.slow] if name in DEEP else [])


def count_multiply_accumulates(name, num_classes=1000, in_channels=3, image_size=None):
    """Of matrix products and convolutions for one image, and what fvcore counts for normalisation."""
    normalisation = 0

    def add(module, _inputs, output):
        nonlocal normalisation
        normalisation += output.numel() * sum(n for kind, n in NORMALISATION.items() if isinstance(module, kind))

    with torch.device("meta"), torch.no_grad():
        model = create_model(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size).eval()
        for module in model.modules():
            module.register_forward_hook(add)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, in_channels, model.image_size, model.image_size))
    return counter.get_total_flops() // 2, normalisation


def as_published(macs, published):
    """In billions, with as many decimals."""
    return f"{macs / 1e9:.{len(published.partition('.')[2])}f}"


@pytest.mark.parametrize(("name", "published"), [marked(*item) for item in TORCHVISION_GMACS.items()])
def test_multiply_accumulates_are_those_of_torchvision(name, published):
    macs, _ = count_multiply_accumulates(name)
    assert as_published(macs, published) == published


@pytest.mark.parametrize(("name", "image_size", "published"), [marked(name, *row) for name, row in TIMM_GMACS.items()])
def test_multiply_accumulates_are_those_of_timm(name, image_size, published):
    assert as_published(sum(count_multiply_accumulates(name, image_size=image_size)), published) == published


@pytest.mark.parametrize("name", [marked(name) for name in CIFAR_AT_10_CLASSES])
def test_multiply_accumulates_of_a_cifar_network_by_hand(name):
    n = (int(name.removeprefix("resnet")) - 2) // 6
    stem_and_first_stage = 32**2 * (3 * 16 * 9 + 2 * n * 16 * 16 * 9)
    later_stages = sum(size**2 * (w // 2 * w * 9 + (2 * n - 1) * w * w * 9) for w, size in ((32, 16), (64, 8)))
    macs, _ = count_multiply_accumulates(name, num_classes=10)
    assert macs == stem_and_first_stage + later_stages + 64 * 10


@pytest.mark.parametrize("name", LENET_AT_10_CLASSES)
def test_multiply_accumulates_of_lenet_by_hand(name):
    convolutions = 28**2 * 25 * 6 + 10**2 * 25 * 6 * 16
    macs, _ = count_multiply_accumulates(name, num_classes=10, in_channels=1)
    assert macs == convolutions + 400 * 120 + 120 * 84 + 84 * 10


def test_the_work_of_every_name_is_counted():
    assert {*TORCHVISION_GMACS, *TIMM_GMACS, *CIFAR_AT_10_CLASSES, *LENET_AT_10_CLASSES, "airbench94"} == set(MODELS)
