"""The number of parameters is the published one, exactly, for every name in MODELS.

Sources: torchvision's and timm's model tables for 1000 classes; for the CIFAR networks table 6 of the ResNet paper
(0.27, 0.46, 0.66, 0.85 and 1.7 million), to the last parameter by the sum in its test here; LeNet-5 by the sum in its
test. Nothing is allocated: the networks are on the meta device.
"""

import pytest
import torch

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
}
CIFAR_AT_10_CLASSES = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
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


def test_modern_lenet_has_a_scale_and_a_shift_where_the_classic_has_a_bias():
    expected = LENET_AT_10_CLASSES["lenet5"] + 6 + 16
    assert count("lenet5_modern", num_classes=10, in_channels=1) == expected == LENET_AT_10_CLASSES["lenet5_modern"]


def test_every_name_is_counted():
    assert {*AT_1000_CLASSES, *CIFAR_AT_10_CLASSES, *LENET_AT_10_CLASSES} == set(MODELS)
