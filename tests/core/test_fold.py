"""Folding normalisation into convolutions changes no feature, and is left where it cannot be done."""

import pytest
import torch
from torch import nn

from linnaeus.core.fold import TOLERANCE, folded
from linnaeus.models import create_model


def with_statistics(model):
    """Normalisation that has seen something: at its start, folding it would be hard to get wrong."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight.data, 0.5)):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_lite0"])
def test_all_norms_are_folded_and_the_features_stay(name):
    torch.manual_seed(0)
    model = with_statistics(create_model(name, num_classes=3, image_size=32))
    images = torch.randn(4, 3, 32, 32)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    made = folded(model, images[:2])
    assert (norms(model) > 0, norms(made)) == (True, 0)
    with torch.no_grad():
        expected, found = model.features(images), made.features(images)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


class Twice(nn.Module):
    """One convolution, used once with its norm and once without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def features(self, images):
        return self.conv(self.norm(self.conv(images))).mean((2, 3))


def test_a_convolution_that_is_used_twice_is_left_alone():
    torch.manual_seed(0)
    model = with_statistics(Twice())
    images = torch.randn(2, 3, 8, 8)
    made = folded(model, images)
    assert norms(made) == 1
    assert torch.equal(made.features(images), model.features(images))
