"""Grad-CAM finds the place of a class, takes the last map of any family, and depends on the weights."""

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.explain.gradcam import gradcam, target_layer
from linnaeus.models import create_model


def make(name="resnet20", size=32, channels=3):
    torch.manual_seed(0)
    return create_model(name, num_classes=3, in_channels=channels, image_size=size).eval()


class Corners(nn.Module):
    """Two maps that are the two channels of the image, averaged: class k is how bright channel k is."""

    num_classes, in_channels, image_size = 2, 2, 8

    def __init__(self):
        super().__init__()
        self.block = nn.Identity()
        self.head = nn.Identity()

    @property
    def blocks(self):
        return [self.block]

    def features(self, images):
        return self.block(images).mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


def test_the_map_is_where_the_class_is():
    images = torch.zeros(1, 2, 8, 8)
    images[0, 0, 1, 2] = images[0, 1, 6, 5] = 1.0
    for label, place in ((0, (1, 2)), (1, (6, 5))):
        (heat,) = gradcam(Corners(), images, torch.tensor([label]))
        expected = torch.zeros(8, 8)
        expected[place] = 1 / 64  # the mean gradient, equation 1, times the map, equation 2
        assert torch.allclose(heat, expected)


@pytest.mark.parametrize(
    ("name", "size", "layer", "side"),
    [
        ("lenet5_modern", 32, "c3", 5),
        ("resnet20", 32, "layer3", 8),
        ("efficientnet_lite0", 64, "act2", 2),  # behind the last block: the 1x1 convolution is part of it
        ("convnextv2_atto", 64, "stages.3", 2),
    ],
)
def test_every_family_has_a_map(name, size, layer, side):
    model = make(name, size)
    images = torch.randn(2, 3, size, size)
    assert target_layer(model, images) == (layer, False)
    assert gradcam(model, images, torch.tensor([0, 1])).shape == (2, side, side)


def test_one_image_does_not_depend_on_the_other():
    model, images = make(), torch.randn(2, 3, 32, 32)
    both = gradcam(model, images, torch.tensor([0, 2]))
    assert torch.allclose(both[1], gradcam(model, images[1:], torch.tensor([2]))[0], atol=1e-6)


def test_frozen_networks_are_explained_and_nothing_is_left_behind():
    model = make().requires_grad_(False)
    with torch.no_grad():
        assert gradcam(model, torch.randn(1, 3, 32, 32), torch.tensor([0])).isfinite().all()
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_maps_change_when_the_weights_are_drawn_again():
    """The sanity check of Adebayo et al., NeurIPS 2018, section 3.1."""
    images, classes = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    before = gradcam(make(), images, classes)
    torch.manual_seed(1)
    other = create_model("resnet20", num_classes=3, image_size=32).eval()
    after = gradcam(other, images, classes)
    assert before.std() > 0
    assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] < 0.5


def test_a_trained_network_is_seen_to_look_at_its_object():
    """Grey noise with a bright or a dark square somewhere: after training, the strongest place is at the square."""
    torch.manual_seed(0)
    model = create_model("lenet5_modern", num_classes=2, in_channels=1, image_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(40):
        images, targets, _ = squares(32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
    images, targets, places = squares(64)
    model.eval()
    assert (model(images).argmax(1) == targets).float().mean() > 0.95
    heat = gradcam(model, images, targets)  # (64, 5, 5), and the paper's map covers the image evenly
    peaks = heat.flatten(1).argmax(1)
    found = torch.stack([peaks // 5, peaks % 5], 1) * 6.4 + 3.2
    near = (found - places).abs().amax(1) < 8
    assert near.float().mean() > 0.7  # by chance a quarter


def squares(count):
    """(count, 1, 32, 32) images, their classes, and the (count, 2) centres of the squares."""
    images, targets = 0.3 * torch.randn(count, 1, 32, 32), torch.randint(0, 2, (count,))
    corners = torch.randint(4, 20, (count, 2))
    for image, target, (top, left) in zip(images, targets, corners.tolist(), strict=True):
        image[:, top : top + 8, left : left + 8] += 2.0 * target - 1
    return images, targets, corners + 4.0


def test_a_transformer_is_refused_with_advice():
    with pytest.raises(RequestError, match=r"needs a map behind the last block.*--method occlusion"):
        gradcam(make("vit_tiny", 32), torch.randn(1, 3, 32, 32), torch.tensor([0]))
