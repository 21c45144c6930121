"""LeNet-5 equals its formula, written out, in both forms; its layers have the sizes of the paper."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from linnaeus.models import create_model

from .peers import assert_exact_gradients
from .reference import assert_same_logits, perturb

NAMES = ["lenet5", "lenet5_modern"]


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


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("image_size", [28, 32])
@pytest.mark.parametrize("name", NAMES)
def test_it_equals_its_formula(name, image_size, in_channels):
    ours = perturb(create_model(name, num_classes=10, in_channels=in_channels, image_size=image_size))
    assert_same_logits(ours, partial(lenet_by_hand, ours, modern=name == "lenet5_modern"), image_size, in_channels)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_of_a_stage_are_exact(name):
    assert_exact_gradients(create_model(name, num_classes=10, in_channels=1).c1, 2, 1, 6, 6)


@pytest.mark.parametrize("image_size", [28, 32])
@pytest.mark.parametrize("name", NAMES)
def test_its_layers_have_the_sizes_of_the_paper(name, image_size):
    model = create_model(name, num_classes=10, in_channels=1, image_size=image_size).eval()
    sizes = {}
    for layer in ("c1.conv", "c1.pool", "c3.conv", "c3.pool", "c5", "f6", "head"):
        model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, output, layer=layer: sizes.update({layer: tuple(output.shape[1:])})
        )
    model(torch.zeros(1, 1, image_size, image_size))
    assert sizes == {
        "c1.conv": (6, 28, 28),
        "c1.pool": (6, 14, 14),
        "c3.conv": (16, 10, 10),
        "c3.pool": (16, 5, 5),
        "c5": (120,),
        "f6": (84,),
        "head": (10,),
    }


def test_the_first_weights_of_the_classic_form_are_those_of_glorot():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("lenet5", num_classes=10, in_channels=1)
    fans = {"c1.conv": 25 * (1 + 6), "c3.conv": 25 * (6 + 16), "c5": 400 + 120, "f6": 120 + 84, "head": 84 + 10}
    for layer, fan_in_and_out in fans.items():
        weight, bound = model.get_submodule(layer).weight, (6 / fan_in_and_out) ** 0.5
        assert bound * 0.95 < weight.abs().max() <= bound, layer
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.2), layer
        assert not model.get_submodule(layer).bias.any()


def test_the_first_weights_of_the_modern_form_are_those_of_he():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("lenet5_modern", num_classes=10, in_channels=1)
    for layer, fan_in in {"c1.conv": 25, "c3.conv": 150, "c5": 400, "f6": 120, "head": 84}.items():
        weight = model.get_submodule(layer).weight
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2), layer
