"""ConvNeXt V1 equals torchvision's and V2 timm's: logits, gradients in training and the distribution of first weights.

Whole networks are slow; in the default suite they have fewer blocks, of the smallest published widths.
"""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from linnaeus.models import create_model
from linnaeus.models.convnext import Block, ConvNeXt, GlobalResponseNorm, LayerNorm2d
from linnaeus.models.keys import to_ours

from .peers import assert_exact_gradients, assert_same_gradients, assert_same_spread, timm_network
from .reference import assert_same_logits, perturb

V1 = ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"]
V2 = ["atto", "femto", "pico", "nano", "tiny", "base"]
DEPTHS = (1, 1, 2, 1)
DIMS = (40, 80, 160, 320)


def v1_of_torchvision():
    stages = [CNBlockConfig(*stage) for stage in zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)]
    return torchvision.models.ConvNeXt(stages, num_classes=5)


def v1(**options):
    return ConvNeXt(num_classes=5, depths=DEPTHS, dims=DIMS, **options)


def v2_of_timm():
    return timm_network("convnextv2_atto", num_classes=5, depths=DEPTHS)


def v2(**options):
    return ConvNeXt(num_classes=5, depths=DEPTHS, dims=DIMS, grn=True, layer_scale=None, **options)


@pytest.mark.parametrize("image_size", [224, 160])
def test_v1_equals_torchvision(image_size):
    theirs, ours = perturb(v1_of_torchvision()), v1().eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.parametrize("image_size", [224, 160])
def test_v2_equals_timm(image_size):
    theirs, ours = perturb(v2_of_timm()), v2().eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [224, 160])
@pytest.mark.parametrize("name", V1)
def test_a_whole_v1_equals_torchvision(name, image_size):
    theirs = perturb(getattr(torchvision.models, name)(num_classes=5))
    ours = create_model(name, num_classes=5).eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, image_size)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [224, 160])
@pytest.mark.parametrize("size", V2)
def test_a_whole_v2_equals_timm(size, image_size):
    theirs = perturb(timm_network(f"convnextv2_{size}", num_classes=5))
    ours = create_model(f"convnextv2_{size}", num_classes=5).eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, image_size)


def test_the_gradients_of_v1_equal_those_of_torchvision():
    theirs, ours = perturb(v1_of_torchvision()), v1()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_gradients(ours, theirs, 64)


def test_the_gradients_of_v2_equal_those_of_timm():
    theirs, ours = perturb(v2_of_timm()), v2()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_gradients(ours, theirs, 64)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 1, 1, 3)])
def test_the_gradients_of_global_response_normalisation_are_exact(shape):
    assert_exact_gradients(GlobalResponseNorm(shape[-1]), *shape)


def test_the_gradients_of_normalisation_over_channels_are_exact():
    assert_exact_gradients(LayerNorm2d(5), 2, 5, 3, 2)


@pytest.mark.parametrize(("grn", "layer_scale"), [(False, 1e-6), (True, None)])
def test_the_gradients_of_a_block_are_exact(grn, layer_scale):
    assert_exact_gradients(Block(3, grn=grn, layer_scale=layer_scale, drop_path=0.0), 2, 3, 3, 2)


@torch.no_grad()
def test_global_response_normalisation_is_the_formula_of_the_paper():
    layer, x = perturb(GlobalResponseNorm(6)), torch.randn(2, 4, 5, 6)
    for n in range(2):
        energies = torch.tensor([x[n, :, :, c].square().sum().sqrt() for c in range(6)])
        expected = layer.gamma[0] * (x[n] * (energies / (energies.mean() + 1e-6))) + layer.beta[0] + x[n]
        assert torch.allclose(layer(x)[n], expected, atol=1e-6)


@torch.no_grad()
def test_global_response_normalisation_of_a_dark_map_is_finite():
    layer = perturb(GlobalResponseNorm(6))
    assert torch.equal(layer(torch.zeros(2, 4, 5, 6)), layer.beta.expand(2, 4, 5, 6))


@torch.no_grad()
def test_normalisation_over_channels_is_layer_normalisation_of_each_pixel():
    layer, x = perturb(LayerNorm2d(6)), torch.randn(2, 6, 3, 4)
    pixel = x[1, :, 2, 3]
    normalised = (pixel - pixel.mean()) / (pixel.var(correction=0) + layer.eps).sqrt()
    assert torch.allclose(layer(x)[1, :, 2, 3], layer.weight * normalised + layer.bias, atol=1e-6)


@pytest.mark.parametrize(("make", "theirs"), [(v1, v1_of_torchvision), (v2, v2_of_timm)], ids=["v1", "v2"])
def test_the_first_weights_are_distributed_as_those_of_the_reference(make, theirs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert_same_spread(make(), theirs())


def test_the_first_weights_have_the_std_of_the_paper():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = v2()
    weights = torch.cat([m.weight.flatten() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_layer_scale_is_where_gamma_starts():
    assert all((block.gamma == 0.25).all() for block in v1(layer_scale=0.25).blocks)


def test_without_layer_scale_there_is_no_gamma():
    names = {key.rpartition(".")[2] for key in v1(layer_scale=None).state_dict()}
    assert names == {"weight", "bias"}


@torch.no_grad()
def test_a_block_of_v1_starts_near_the_identity():
    block, x = v1().blocks[0], torch.randn(2, 40, 8, 8)
    assert torch.allclose(block(x), x, atol=1e-4)
    assert not torch.equal(block(x), x)
