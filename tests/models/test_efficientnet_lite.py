"""EfficientNet-Lite equals timm's port of TensorFlow's networks, padding included, for images of even and odd sizes."""

from math import ceil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linnaeus.models import create_model
from linnaeus.models.efficientnet_lite import STAGES, Conv2dSame, EfficientNetLite, InvertedResidual
from linnaeus.models.keys import to_ours

from .peers import assert_exact_gradients, assert_same_gradients, assert_same_spread, timm_network
from .reference import assert_same_logits, perturb

NAMES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def small(**options):
    return EfficientNetLite(num_classes=5, widths=(8, 8, 8, 8, 8, 8, 8), depths=(1, 2, 1, 1, 2, 1, 1), **options)


@pytest.mark.parametrize("image_size", [None, pytest.param(193, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_timm(name, image_size):
    theirs = perturb(timm_network(f"tf_{name}", num_classes=5))
    ours = create_model(name, num_classes=5).eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, image_size or ours.image_size)


def test_its_gradients_equal_those_of_timm():
    theirs = perturb(timm_network("tf_efficientnet_lite0", num_classes=5))
    ours = create_model("efficientnet_lite0", num_classes=5)
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_gradients(ours, theirs, 65)


def test_its_first_weights_are_distributed_as_those_of_the_reference():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = create_model("efficientnet_lite0", num_classes=100)
        assert_same_spread(ours, timm_network("tf_efficientnet_lite0", num_classes=100))
    assert ours.head.weight.abs().max().item() == pytest.approx(0.1, rel=1e-3)
    assert ours.conv_stem.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.1)
    assert ours.blocks[-1].conv_dw.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)


def same_convolution_by_hand(x, weight, stride, groups):
    """TensorFlow's rule: ceil(size / stride) pixels out; what is missing for them is padded, the odd pixel behind."""
    kernel_size = weight.shape[-1]
    padding = []
    for size in (x.shape[3], x.shape[2]):
        missing = max((ceil(size / stride) - 1) * stride + kernel_size - size, 0)
        padding += [missing // 2, missing - missing // 2]
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (2, 1), (1, 1)])
def test_padding_is_that_of_tensorflow(size, kernel_size, stride):
    layer, x = Conv2dSame(4, 4, kernel_size, stride=stride, groups=2), torch.randn(1, 4, *size)
    assert torch.allclose(layer(x), same_convolution_by_hand(x, layer.weight, stride, groups=2), atol=1e-6)
    assert layer(x).shape[2:] == (ceil(size[0] / stride), ceil(size[1] / stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_of_a_padded_convolution_are_exact(stride):
    assert_exact_gradients(Conv2dSame(2, 3, 3, stride=stride), 2, 2, 4, 5)


@pytest.mark.parametrize(
    ("expansion", "out_channels", "stride"), [(1, 3, 1), (6, 2, 1), (6, 3, 2)], ids=["first", "shortcut", "strided"]
)
def test_the_gradients_of_a_block_are_exact(expansion, out_channels, stride):
    assert_exact_gradients(
        InvertedResidual(2, out_channels, expansion=expansion, kernel_size=3, stride=stride), 2, 2, 3, 4
    )


def test_the_first_block_widens_nothing():
    names = dict(small().blocks[0].named_parameters())
    assert {name.partition(".")[0] for name in names} == {"conv_dw", "bn2", "conv_pwl", "bn3"}


def test_a_shortcut_is_where_the_shape_does_not_change():
    has_shortcut = [block.has_shortcut for block in small().blocks]
    assert has_shortcut == [False, False, True, False, False, True, True, False, True]


def test_each_stage_has_the_kernel_and_the_stride_of_the_paper():
    blocks = [block.conv_dw for block in create_model("efficientnet_lite0", num_classes=5).blocks]
    firsts = [blocks[i] for i in (0, 1, 3, 5, 8, 11, 15)]
    assert [(conv.kernel_size[0], conv.stride[0]) for conv in firsts] == [stage[1:] for stage in STAGES]
    assert sum(conv.stride[0] == 2 for conv in blocks) == 4


@pytest.mark.parametrize(
    ("width", "depth", "name"), [(1.0, 1.1, "efficientnet_lite1"), (1.1, 1.2, "efficientnet_lite2")]
)
def test_the_larger_ones_are_the_first_one_scaled(width, depth, name):
    """Compound scaling as the reference does it: widths to a multiple of 8, depths up, first and last depth kept."""
    with torch.device("meta"):
        first, scaled = (create_model(n, num_classes=5) for n in ("efficientnet_lite0", name))
    depths = [1, *[ceil(depth * n) for n in (2, 2, 3, 3, 4)], 1]
    widths = [int(width * n + 4) // 8 * 8 for n in (16, 24, 40, 80, 112, 192, 320)]
    expected = [w for w, n in zip(widths, depths, strict=True) for _ in range(n)]
    assert [block.conv_pwl.out_channels for block in scaled.blocks] == expected
    for layer in ("conv_stem", "conv_head"):
        assert getattr(scaled, layer).out_channels == getattr(first, layer).out_channels


def test_stochastic_depth_grows_over_all_blocks_and_is_where_a_shortcut_is():
    blocks = small(drop_path=0.4).blocks
    rates = [block.drop_path.rate if block.has_shortcut else None for block in blocks]
    expected = [0.4 * i / 8 if block.has_shortcut else None for i, block in enumerate(blocks)]
    assert rates == pytest.approx(expected)
    assert all(isinstance(block.drop_path, nn.Identity) for block in blocks if not block.has_shortcut)
