"""`create_model` builds by name and refuses what it does not understand, with the valid choices in the message.

Every option has an effect, and a value that would have none or cannot work is refused by the network itself.
"""

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.models import MODELS, create_model
from linnaeus.models.lenet import LeNet5
from linnaeus.models.resnet import BasicBlock, ResNet
from linnaeus.models.vit import VisionTransformer


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, num_classes=5, **options)


def small_vit(**options):
    return VisionTransformer(num_classes=5, image_size=32, patch_size=8, dim=24, depth=3, num_heads=2, **options)


def test_an_unknown_name_is_refused_with_the_closest_one():
    with pytest.raises(RequestError, match=r"no model named 'resnet19': did you mean 'resnet18'\?"):
        create_model("resnet19", num_classes=5)


def test_a_name_like_no_other_is_refused_with_all_of_them():
    with pytest.raises(RequestError, match=r"choose one of lenet5, .*, convnext_large"):
        create_model("???", num_classes=5)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("lenet5", "none"),
        ("resnet18", "stem, zero_init_last, drop_path"),
        ("resnet20", "zero_init_last, drop_path"),
        ("vit_tiny", "patch_size, pool, layer_scale, drop_path"),
        ("convnext_tiny", "layer_scale, drop_path"),
    ],
)
def test_an_unknown_option_is_refused_with_the_valid_ones(name, valid):
    with pytest.raises(RequestError, match=rf"{name} has no option dropout: its options are {valid}$"):
        on_meta(name, dropout=0.1)


def test_what_makes_a_variant_is_not_an_option():
    with pytest.raises(RequestError, match="resnet18 has no option depths"):
        on_meta("resnet18", depths=(1, 1, 1, 1))


def test_a_network_of_your_own_needs_one_line(monkeypatch):
    monkeypatch.setitem(MODELS, "mine", LeNet5)
    assert isinstance(create_model("mine", num_classes=5, modern=True), LeNet5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet5", {"image_size": 30}, "image_size=30, expected 28 or 32"),
        ("resnet18", {"stem": "large"}, "stem='large', expected 'auto', 'imagenet' or 'small'"),
        ("resnet18", {"drop_path": -0.1}, "drop_path is -0.1"),
        ("resnet20", {"drop_path": 1.0}, "drop_path is 1.0"),
        ("vit_tiny", {"drop_path": 1.0}, "drop_path is 1.0"),
        ("vit_tiny", {"pool": "max"}, "pool='max', expected 'token' or 'avg'"),
        ("vit_tiny", {"image_size": 100}, "choose image_size=96 or 112, or another patch_size"),
        ("vit_tiny", {"image_size": 8}, "choose image_size=16 or 32, or another patch_size"),
        ("convnext_tiny", {"drop_path": 1.0}, "drop_path is 1.0"),
        ("convnext_tiny", {"image_size": 28}, "image_size=28, expected at least 32"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_the_network(name, options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


@pytest.mark.parametrize(("image_size", "stride"), [(32, 1), (64, 1), (65, 2), (224, 2)])
def test_the_stem_of_a_resnet_follows_the_image_size(image_size, stride):
    assert on_meta("resnet18", image_size=image_size).conv1.stride == (stride, stride)


def test_the_stem_of_a_resnet_can_be_chosen_against_the_image_size():
    assert on_meta("resnet18", image_size=32, stem="imagenet").conv1.kernel_size == (7, 7)
    assert on_meta("resnet18", image_size=224, stem="small").conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_zero_init_last_makes_every_block_start_as_its_shortcut(name):
    model = create_model(name, num_classes=5, image_size=32, zero_init_last=True).eval()
    block = model.blocks[1]
    x = torch.rand(2, block.conv1.in_channels, 4, 4)
    assert torch.equal(block(x), x)
    assert all(not block.last_bn.weight.any() for block in model.blocks)


def small_resnet(**options):
    return ResNet(num_classes=5, image_size=32, block=BasicBlock, depths=(1, 1, 1, 1), **options)


@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_drop_path_is_random_in_training_only(make):
    model, images = make(drop_path=0.9), torch.randn(16, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vit_tiny", "convnext_tiny"])
def test_drop_path_grows_linearly_over_all_blocks(name):
    blocks = on_meta(name, drop_path=0.2).blocks
    rates = [[m.rate for n, m in block.named_children() if n.startswith("drop_path")][-1] for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, len(blocks)).tolist())


@torch.no_grad()
def test_the_two_poolings_of_a_vit_see_the_token_and_the_patches():
    images = torch.randn(2, 3, 32, 32)
    token, average = small_vit(), small_vit(pool="avg")
    names = {key.replace("fc_norm.", "norm.") for key in average.state_dict()}
    assert names == set(token.state_dict())

    outputs = []
    for model in (token, average):
        model.blocks[-1].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    features = token.features(images), average.features(images)
    assert torch.allclose(features[0], token.norm(outputs[0][:, 0]), atol=1e-6)
    assert torch.allclose(features[1], average.fc_norm(outputs[1][:, 1:].mean(1)), atol=1e-6)


@torch.no_grad()
def test_layer_scale_starts_a_vit_near_the_identity():
    block = small_vit(layer_scale=1e-5).blocks[0]
    x = torch.randn(2, 17, 24)
    assert set(dict(block.named_parameters())) >= {"ls1.gamma", "ls2.gamma"}
    assert torch.allclose(block(x), x, atol=1e-3)
    assert not torch.equal(block(x), x)


def test_layer_scale_is_where_the_gamma_of_a_convnext_starts():
    model = create_model("convnext_tiny", num_classes=5, layer_scale=0.25)
    assert all((block.gamma == 0.25).all() for block in model.blocks)


def test_a_vit_refuses_images_of_another_size_rather_than_cropping_them():
    with pytest.raises(ValueError, match="images are 32x40 pixels, but the position table is for 32x32"):
        small_vit()(torch.randn(1, 3, 32, 40))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="dim=24 is not a multiple of num_heads=5"):
        VisionTransformer(num_classes=5, dim=24, depth=1, num_heads=5)
