"""Integrated gradients are complete, occlusion finds what a class needs, and both depend on the weights."""

import sys

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.explain.attribution import integrated_gradients, occlusion
from linnaeus.models import create_model

CLASSES = torch.tensor([0, 2])


@pytest.fixture
def captum():
    pytest.importorskip("captum", reason="needs linnaeus[explain]")


def make(seed=0):
    torch.manual_seed(seed)
    return create_model("resnet20", num_classes=3, image_size=16).eval()


def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("captum")
def test_integrated_gradients_sum_to_the_difference_of_the_logits():
    model = make()
    found = integrated_gradients(model, images(), CLASSES, steps=128)
    with torch.no_grad():
        logits = model(images()) - model(torch.zeros(1, 3, 16, 16))
    expected = logits.gather(1, CLASSES[:, None])[:, 0]
    assert found.values.shape == (2, 16, 16)
    assert torch.allclose(found.values.sum((1, 2)), expected, rtol=0.02, atol=0.02)
    assert torch.allclose(found.values.sum((1, 2)) - expected, found.gap, atol=1e-3)


@pytest.mark.usefixtures("captum")
def test_integrated_gradients_of_a_linear_network_are_weights_times_pixels():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    found = integrated_gradients(model, images(), CLASSES)
    weights = model[1].weight[CLASSES].view(2, 3, 16, 16)
    assert torch.allclose(found.values, (weights * images()).sum(1), atol=1e-5)
    assert found.gap.abs().max() < 1e-5


@pytest.mark.usefixtures("captum")
def test_occlusion_finds_the_one_place_that_matters():
    class Spot(nn.Module):
        def forward(self, images):
            spot = images[:, :, 12, 3].sum(1)
            return torch.stack([spot, -spot], 1)

    picture = torch.ones(1, 3, 18, 18)
    heat = occlusion(Spot(), picture, torch.tensor([0]))[0]
    assert heat.shape == (18, 18)
    assert heat.argmax() in [12 * 18 + 3 + dy * 18 + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert (heat[:8] == 0).all()
    assert torch.allclose(occlusion(Spot(), picture, torch.tensor([1]))[0], -heat)


@pytest.mark.usefixtures("captum")
@pytest.mark.parametrize(
    "method", [occlusion, lambda *given: integrated_gradients(*given).values], ids=["occlusion", "ig"]
)
def test_maps_change_when_the_weights_are_drawn_again(method):
    first, second = (method(make(seed), images(), CLASSES).flatten(1) for seed in (0, 1))
    for one, two in zip(first, second, strict=True):
        assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.9


def test_without_captum_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(RequestError, match=r"pip install 'linnaeus\[explain\]'"):
        occlusion(make(), images(), CLASSES)
