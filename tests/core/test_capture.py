"""What modules return is seen by name, unchanged and without changing anything, in every family of networks."""

import importlib.util

import pytest
import torch
from torch import nn

from linnaeus.core.capture import capture, names
from linnaeus.core.errors import RequestError
from linnaeus.models import create_model
from linnaeus.models.adapters import create_adapted

FAMILIES = {
    "lenet5": lambda: create_model("lenet5", num_classes=5),
    "resnet20": lambda: create_model("resnet20", num_classes=5),
    "vit_tiny": lambda: create_model("vit_tiny", num_classes=5, image_size=32),
    "convnextv2_atto": lambda: create_model("convnextv2_atto", num_classes=5, image_size=32),
    "efficientnet_lite0": lambda: create_model("efficientnet_lite0", num_classes=5, image_size=32),
    "torchvision:resnet18": lambda: create_adapted("torchvision:resnet18", num_classes=5, image_size=32),
    "timm:test_vit": lambda: create_adapted("timm:test_vit", num_classes=5, image_size=32),
}


def random_images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_inside_of_every_family_is_seen_by_name(name):
    if name.startswith("timm:") and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    model = FAMILIES[name]().eval()
    named = {module: path for path, module in model.named_modules()}
    head, blocks = named[model.head], [named[block] for block in model.blocks]
    expected = model(random_images())
    with capture(model, head, *blocks, gradients=True) as seen:
        logits = model(random_images())
    assert torch.equal(logits, expected)
    assert torch.equal(seen[head], expected)
    assert list(seen) == [*blocks, head]
    logits.square().sum().backward()
    assert torch.allclose(seen[head].grad, 2 * logits)
    assert all(seen[block].grad.any() for block in blocks)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture
def model():
    """The second layer overwrites what the first returned; `shared` is called twice."""
    torch.manual_seed(0)
    network = nn.ModuleDict({"first": nn.Linear(4, 4), "inplace": nn.ReLU(inplace=True), "rows": nn.ModuleList()})
    network["rows"].extend(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
    network["shared"], network["pair"], network["idle"] = nn.Linear(4, 4), Pair(), nn.Linear(4, 4)
    return Chain(network)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Chain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x):
        x = self.parts["inplace"](self.parts["first"](x))
        for row in self.parts["rows"]:
            x = row(x)
        return self.parts["pair"](self.parts["shared"](self.parts["shared"](x)))[0]


def test_a_star_stands_for_one_level(model):
    x = torch.randn(2, 4)
    for patterns, expected in {
        ("parts.rows.*",): ["parts.rows.0", "parts.rows.1", "parts.rows.2"],
        ("parts.rows.[12].?",): ["parts.rows.1.0", "parts.rows.1.1", "parts.rows.2.0", "parts.rows.2.1"],
        ("parts.rows.2", "parts.f*", "parts.rows.2"): ["parts.first", "parts.rows.2"],
        ("parts.idle",): [],
    }.items():
        with capture(model, *patterns) as seen:
            model(x)
        assert list(seen) == expected


def test_an_operation_in_place_does_not_change_what_was_seen(model):
    x = torch.randn(2, 4)
    with capture(model, "parts.first", "parts.inplace", gradients=True) as seen:
        output = model(x)
    first = model.parts["first"](x)
    assert (first < 0).any()
    assert torch.equal(seen["parts.first"], first)
    assert torch.equal(seen["parts.inplace"], first.relu())
    output.sum().backward()
    passed = seen["parts.inplace"].grad * (first > 0)
    assert torch.equal(seen["parts.first"].grad, passed)


def test_gradients_are_those_of_the_rest_of_the_network(model):
    x, parts = torch.randn(2, 4), model.parts
    with capture(model, "parts.rows.1", gradients=True) as seen:
        model(x).square().sum().backward()
    middle = seen["parts.rows.1"].detach().requires_grad_()
    parts["shared"](parts["shared"](parts["rows"][2](middle))).square().sum().backward()
    assert torch.equal(seen["parts.rows.1"].grad, middle.grad)


def test_without_gradients_nothing_is_kept_but_the_graph_is_there(model):
    with capture(model, "parts.first") as seen:
        model(torch.randn(2, 4)).sum().backward()
    assert seen["parts.first"].requires_grad
    assert not seen["parts.first"].retains_grad
    with torch.inference_mode(), capture(model, "parts.first") as seen:
        model(torch.randn(2, 4))
    assert not seen["parts.first"].requires_grad


def test_hooks_are_gone_after_an_error(model):
    with pytest.raises(RuntimeError), capture(model, "parts.rows.*"):
        model(torch.randn(2, 5))
    with pytest.raises(RequestError, match="no module is called"), capture(model, "parts.rows.*", "absent"):
        pass
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("parts.frist", "no module is called 'parts.frist': did you mean parts.first"),
        ("zzz", "no module is called 'zzz': there are parts, parts.first"),
        ("", "no module is called ''"),
        ("parts.shared", "parts.shared is called twice"),
        ("parts.pair", "parts.pair returns a tuple and no tensor"),
    ],
)
def test_what_cannot_be_seen_is_refused_in_one_line(model, pattern, message):
    with pytest.raises(RequestError) as refusal, capture(model, pattern):
        model(torch.randn(2, 4))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_second_forward_pass_needs_a_second_with(model):
    with capture(model, "parts.first"):
        model(torch.randn(2, 4))
        with pytest.raises(RequestError, match="one forward pass"):
            model(torch.randn(2, 4))


def test_a_gradient_that_cannot_come_is_refused(model):
    refused = pytest.raises(RequestError, match=r"no gradient comes to parts\.first")
    with refused, torch.no_grad(), capture(model, "parts.first", gradients=True):
        model(torch.randn(2, 4))


def test_a_compiled_model_is_refused(model):
    with pytest.raises(RequestError, match="a compiled model"), capture(torch.compile(model, backend="eager"), "*"):
        pass
    model.parts["first"].compile(backend="eager")
    with pytest.raises(RequestError, match="a compiled model"), capture(model, "parts.first"):
        pass


def test_names_are_those_of_all_modules_inside(model):
    assert names(model)[:3] == ["parts", "parts.first", "parts.inplace"]
    assert len(names(model)) == len(list(model.modules())) - 1
