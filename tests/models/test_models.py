"""`create_model` builds by name and refuses what it does not understand, with the valid choices in the message.

Every option has an effect, and a value that would have none or cannot work is refused by the network itself.
"""

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.models import MODELS, create_model
from linnaeus.models.lenet import LeNet5


def on_meta(name, **options):
    with torch.device("meta"):
        return create_model(name, num_classes=5, **options)


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
        ("convnext_tiny", "layer_scale, drop_path"),
        ("convnextv2_atto", "drop_path"),
        ("efficientnet_lite0", "drop_path"),
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
        ("convnext_tiny", {"drop_path": 1.0}, "drop_path is 1.0"),
        ("convnext_tiny", {"image_size": 28}, "image_size=28, expected at least 32"),
        ("efficientnet_lite0", {"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_the_network(name, options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vit_tiny", "convnext_tiny", "convnextv2_atto"])
def test_drop_path_grows_linearly_over_all_blocks(name):
    blocks = on_meta(name, drop_path=0.2).blocks
    rates = [[m.rate for n, m in block.named_children() if n.startswith("drop_path")][-1] for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, len(blocks)).tolist())


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "vit_tiny", "convnextv2_atto", "efficientnet_lite0"])
def test_drop_path_is_random_in_training_only(name):
    model = create_model(name, num_classes=5, image_size=32, drop_path=0.9)
    images = torch.randn(8, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
