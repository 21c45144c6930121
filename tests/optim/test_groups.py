"""Kernels decay, per-channel and per-token parameters do not, and each trainable parameter is in exactly one group."""

import warnings

import pytest
import torch
from torch import nn

from linnaeus.optim.groups import UNDECAYED, param_groups


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
