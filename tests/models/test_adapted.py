"""A network is cut before its last linear layer where that is exact, and its blocks are found by structure."""

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.models.adapted import Adapted, find_blocks

NUM_CLASSES = 5


class Network(nn.Module):
    """A convolution, pooling and the end that is being tried."""

    def __init__(self, end, pool=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1) if pool else nn.Identity()
        self.end = end

    def forward(self, images):
        return self.end(self.pool(self.stem(images)))


class Flat(nn.Module):
    """Applies a function of (x, one, other), with two linear layers, to flat features."""

    def __init__(self, function):
        super().__init__()
        self.one, self.other = nn.Linear(8, NUM_CLASSES), nn.Linear(8, NUM_CLASSES)
        self.function = function

    def forward(self, x):
        return self.function(self, x.flatten(1))


def cut(end, pool=True):
    network = Network(end, pool)
    return Adapted(network, build=lambda: network, num_classes=NUM_CLASSES, image_size=16)


def linear_end():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, NUM_CLASSES))


ENDS = {
    "linear": (linear_end, "end.4"),
    "two_uses_of_one_layer": (lambda: Flat(lambda flat, x: flat.one(x)), "end.one"),
    "convolution_then_flatten": (lambda: nn.Sequential(nn.Conv2d(8, NUM_CLASSES, 1), nn.Flatten()), "end.0"),
    "convolution_without_bias": (
        lambda: nn.Sequential(nn.Conv2d(8, NUM_CLASSES, 1, bias=False), nn.Flatten()),
        "end.0",
    ),
}


@torch.no_grad()
@pytest.mark.parametrize(("end", "last"), ENDS.values(), ids=ENDS)
def test_a_cut_changes_nothing(end, last):
    network = Network(end()).eval()
    images = torch.randn(2, 3, 16, 16)
    expected, state = network(images), dict(network.state_dict())
    model = Adapted(network, build=lambda: network, num_classes=NUM_CLASSES, image_size=16).eval()
    assert isinstance(model.head, nn.Linear)
    assert model.features(images).shape == (2, model.head.in_features)
    assert torch.allclose(model(images), expected, rtol=0, atol=1e-6)
    translated = model.translate(state)
    assert translated.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, translated[key]) for key, tensor in model.state_dict().items())
    assert torch.equal(translated["head.weight"], state[f"{last}.weight"].flatten(1))


REFUSED = {
    "a pooling at the end": nn.Sequential(nn.Conv2d(8, NUM_CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "a larger kernel": nn.Sequential(nn.Conv2d(8, NUM_CLASSES, 7), nn.Flatten()),
    "a softmax": nn.Sequential(nn.Flatten(), nn.Linear(8, NUM_CLASSES), nn.Softmax(1)),
    "two heads, averaged": Flat(lambda flat, x: (flat.one(x) + flat.other(x)) / 2),
    "two heads in training": Flat(lambda flat, x: (flat.one(x), flat.other(x)) if flat.training else flat.one(x)),
    "another head in training": Flat(lambda flat, x: flat.one(x) if flat.training else flat.other(x)),
    "a weight used by hand": Flat(lambda flat, x: x @ flat.one.weight.T),
    "another number of classes": nn.Sequential(nn.Flatten(), nn.Linear(8, NUM_CLASSES + 1)),
}


@pytest.mark.parametrize("end", REFUSED.values(), ids=REFUSED)
def test_what_does_not_end_in_a_linear_layer_is_refused(end):
    pool = not isinstance(end[0], nn.Conv2d) if isinstance(end, nn.Sequential) else True
    with pytest.raises(RequestError, match="Network has no last layer to cut before"):
        cut(end, pool)


def test_images_that_do_not_suit_are_refused_in_one_line():
    with pytest.raises(RequestError, match=r"Network does not run on images of 3 x 16 x 16: .+") as refusal:
        cut(nn.Linear(9, NUM_CLASSES))
    assert "\n" not in str(refusal.value)


def test_to_find_the_cut_draws_nothing_and_changes_nothing():
    network = Network(nn.Sequential(nn.BatchNorm2d(8), *linear_end()))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model = Adapted(network, build=lambda: network, num_classes=NUM_CLASSES, image_size=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, model.translate(before)[key]) for key, tensor in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Norm(nn.Module):
    """One layer with weights, however many modules."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.LayerNorm(4)


class Twice(nn.Module):
    """Two parts of one class, which are no rows where it is itself in one: as in an MLP-Mixer."""

    def __init__(self):
        super().__init__()
        self.tokens, self.channels = Block(), Block()


class Downsample(Block):
    """Of a class of its own."""


class Stage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.downsample = Downsample()
        self.blocks = nn.ModuleList(blocks)


class Named(nn.Module):
    """Blocks as attributes, as in timm's RegNet."""

    def __init__(self, **blocks):
        super().__init__()
        for name, block in blocks.items():
            self.add_module(name, block)


# What it is: (a network, the name of its last layer, the names of its blocks).
STRUCTURES = {
    "a row": (nn.Sequential(Norm(), Block(), Block()), "", ["1", "2"]),
    "rows in a row": (nn.Sequential(nn.Sequential(Block()), nn.Sequential(Block())), "", ["0.0", "1.0"]),
    "a stage of a row, one of a single block": (
        nn.Sequential(Stage(Block(), Block()), Stage(Block())),
        "",
        ["0.blocks.0", "0.blocks.1", "1"],
    ),
    "attributes alike": (Named(a=Block(), b=Block(), norm=Norm()), "", ["a", "b"]),
    "attributes of attributes": (
        Named(s1=Named(b1=Block(), b2=Block()), s2=Named(b1=Block(), b2=Block())),
        "",
        ["s1.b1", "s1.b2", "s2.b1", "s2.b2"],
    ),
    "parts alike in a row": (nn.Sequential(Twice(), Twice()), "", ["0", "1"]),
    "one beside a row": (Named(stem=Block(), rest=nn.ModuleList([Twice(), Twice()])), "", ["rest.0", "rest.1"]),
    "a head of two layers": (Named(blocks=nn.Sequential(Block()), head=Block()), "head.b", ["blocks.0"]),
    "convolutions": (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)),
        "3",
        ["0", "2"],
    ),
    "layers": (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 5)), "3", ["0", "2"]),
}


@pytest.mark.parametrize(("network", "last", "blocks"), STRUCTURES.values(), ids=STRUCTURES)
def test_blocks_are_found_by_structure(network, last, blocks):
    assert find_blocks(network, last, [name for name, _ in network.named_modules()]) == blocks


def test_blocks_come_in_the_order_of_the_calls_and_only_if_called():
    network = nn.Sequential(Block(), Block(), Block())
    assert find_blocks(network, "", ["2", "0"]) == ["2", "0"]
