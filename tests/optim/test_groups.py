"""Kernels decay, per-channel and per-token parameters do not; each trainable parameter is in exactly one group, and
has the learning rate of its depth.
"""

import warnings

import pytest
import torch
from torch import nn

from linnaeus.core.classifier import Classifier
from linnaeus.models import MODELS, create_model
from linnaeus.optim.groups import (
    UNDECAYED,
    hidden_matrices,
    layer_depths,
    layer_scales,
    mark_hidden,
    param_groups,
    split_groups,
)


class Network(nn.Module):
    """One parameter of every kind; the position embedding sits inside a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.gamma = nn.Parameter(torch.ones(8))
        self.encoder = nn.Module()
        self.encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
        self.encoder.cls_token_mixer = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)


def test_kernels_and_matrices_decay_and_nothing_else():
    decayed, others = param_groups(Network(), 0.05)
    assert decayed["param_names"] == ["conv.weight", "encoder.cls_token_mixer.weight", "fc.weight"]
    assert "cls_token" in others["param_names"]
    assert "encoder.pos_embed" in others["param_names"]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)


@pytest.mark.parametrize("name", sorted(UNDECAYED))
def test_tokens_embeddings_and_layer_scales_do_not_decay_whatever_their_shape(name):
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.zeros(1, 2, 3)))
    decayed, others = param_groups(model, 0.1)
    assert (decayed["param_names"], others["param_names"]) == ([], [name])


def test_groups_partition_the_trainable_parameters_in_the_order_of_the_model():
    model = Network()
    groups = param_groups(model, 0.1)
    names = [name for group in groups for name in group["param_names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    for group in groups:
        assert all(model.get_parameter(n) is p for n, p in zip(group["param_names"], group["params"], strict=True))
        order = [name for name, _ in model.named_parameters()]
        assert group["param_names"] == sorted(group["param_names"], key=order.index)


def test_frozen_parameters_are_in_no_group():
    model = Network().requires_grad_(False)
    model.fc.requires_grad_(True)
    decayed, others = param_groups(model, 0.1)
    assert (decayed["param_names"], others["param_names"]) == (["fc.weight"], ["fc.bias"])


def test_a_tied_parameter_is_in_one_group_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert [len(group["params"]) for group in param_groups(model, 0.1)] == [1, 0]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_torch_takes_the_groups_and_their_names_even_an_empty_one(optimizer):
    model = nn.Linear(4, 2, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = optimizer(param_groups(model, 0.1), lr=0.1)
        model(torch.ones(1, 4)).sum().backward()
        built.step()
    assert built.state_dict()["param_groups"][0]["param_names"] == ["weight"]


@pytest.mark.parametrize("weight_decay", [-0.1, float("nan")])
def test_negative_decay_raises(weight_decay):
    with pytest.raises(ValueError, match="weight_decay is"):
        param_groups(nn.Linear(2, 2), weight_decay)


def test_a_model_that_is_all_frozen_raises():
    with pytest.raises(ValueError, match="every parameter is frozen"):
        param_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


def on_meta(name: str) -> Classifier:
    with torch.device("meta"):
        return create_model(name, num_classes=3)


def depths_of(name: str) -> dict[int, set[str]]:
    """Depth -> the modules, by the first two parts of their names, whose parameters have it."""
    found: dict[int, set[str]] = {}
    for parameter, depth in layer_depths(on_meta(name)).items():
        found.setdefault(depth, set()).add(".".join(parameter.split(".")[:2]))
    return found


def test_depths_of_a_vit_are_those_of_its_field():
    depths = depths_of("vit_tiny")
    assert {"cls_token", "pos_embed", "patch_embed.proj"} == depths[0]
    assert [depths[i] for i in range(1, 13)] == [{f"blocks.{i}"} for i in range(12)]
    assert depths[13] == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def test_a_layer_between_two_stages_is_as_deep_as_the_block_it_feeds():
    depths = depths_of("convnext_tiny")
    assert depths[0] == {"downsample_layers.0"}
    # Stages of 3, 3, 9 and 3 blocks: the first block of the second stage is the fourth.
    assert [depths[i] for i in (3, 4, 7, 16)] == [
        {"stages.0"},
        {"stages.1", "downsample_layers.1"},
        {"stages.2", "downsample_layers.2"},
        {"stages.3", "downsample_layers.3"},
    ]
    assert depths[19] == {"norm.weight", "norm.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_has_depths_and_a_head_on_top(name):
    model = on_meta(name)
    depths = layer_depths(model)
    assert list(depths) == [parameter for parameter, _ in model.named_parameters()]
    top = len(model.blocks) + 1
    heads = {id(parameter) for parameter in model.head.parameters()}
    assert {depths[n] for n, p in model.named_parameters() if id(p) in heads} == {top}
    assert set(depths.values()) - {0} >= set(range(1, top + 1))
    assert hidden_matrices(model)


def test_finding_depths_leaves_the_network_as_it_was():
    model = create_model("resnet20", num_classes=3)
    model.train()
    model.layer2.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    layer_depths(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_rates_fall_by_one_factor_a_layer():
    scales = layer_scales(on_meta("vit_tiny"), 0.5)
    assert (scales["head.weight"], scales["blocks.11.mlp.fc1.bias"], scales["cls_token"]) == (1.0, 0.5, 0.5**13)
    assert set(layer_scales(on_meta("resnet20"), 1.0).values()) == {1.0}


@pytest.mark.parametrize("decay", [0.0, 1.1, float("nan")])
def test_layer_decay_out_of_range_raises(decay):
    with pytest.raises(ValueError, match="layer_decay is"):
        layer_scales(on_meta("lenet5"), decay)


def test_split_groups_keep_every_parameter_and_what_was_said_of_it():
    model = Network()
    scales = {name: 0.1 if name.startswith("conv") else 1.0 for name, _ in model.named_parameters()}
    parts = split_groups(param_groups(model, 0.2), "lr_scale", scales)
    assert [(part["weight_decay"], part["lr_scale"]) for part in parts] == [(0.2, 0.1), (0.2, 1.0), (0, 0.1), (0, 1.0)]
    assert [part["param_names"] for part in parts[:3]] == [
        ["conv.weight"],
        ["encoder.cls_token_mixer.weight", "fc.weight"],
        ["conv.bias"],
    ]
    for part in parts:
        assert all(model.get_parameter(n) is p for n, p in zip(part["param_names"], part["params"], strict=True))
    assert sum(len(part["params"]) for part in parts) == len(scales)


def test_hidden_matrices_are_those_of_the_blocks_without_the_depthwise_kernels():
    vit = hidden_matrices(on_meta("vit_tiny"))
    assert {name.split(".", 2)[2] for name in vit} == {
        "attn.qkv.weight",
        "attn.proj.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
    convnext = hidden_matrices(on_meta("convnext_tiny"))
    assert {name.split(".", 3)[3] for name in convnext} == {"pwconv1.weight", "pwconv2.weight"}
    marked = mark_hidden(param_groups(on_meta("vit_tiny"), 0.1), vit)
    assert [(group["hidden"], group["weight_decay"]) for group in marked] == [(False, 0.1), (True, 0.1), (False, 0.0)]
    assert set(marked[1]["param_names"]) == vit
