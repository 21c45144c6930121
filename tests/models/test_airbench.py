"""airbench94 whitens the images it is shown, starts from the identity, and has the sizes of the paper."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from linnaeus.models import create_model

from .reference import assert_same_logits, perturb


def smooth_images(count=64):
    """(N, 3, 32, 32) whose neighbouring pixels and channels are alike, as in photos."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise + noise.mean(1, keepdim=True), 32, mode="bilinear") * 3


def airbench_by_hand(model, images):
    p = dict(model.state_dict())

    def norm(x, name):
        mean, var, bias = (p[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "bias"))
        return (x - mean) / (var + 1e-12).sqrt() + bias

    x = F.gelu(F.conv2d(images, p["whiten.weight"], p.get("whiten.bias")))
    for name in ("group1", "group2", "group3"):
        x = F.max_pool2d(F.conv2d(x, p[f"{name}.conv1.weight"], padding=1), 2)
        x = F.gelu(norm(x, f"{name}.norm1"))
        x = F.gelu(norm(F.conv2d(x, p[f"{name}.conv2.weight"], padding=1), f"{name}.norm2"))
    return F.max_pool2d(x, 3).flatten(1) @ p["head.weight"].T / 9


@pytest.mark.parametrize("whiten_bias", [True, False])
def test_it_equals_its_formula(whiten_bias):
    model = perturb(create_model("airbench94", num_classes=10, whiten_bias=whiten_bias))
    assert_same_logits(model, partial(airbench_by_hand, model), 32)


def test_measured_on_images_it_whitens_their_patches_and_keeps_both_signs():
    model = create_model("airbench94", num_classes=10, width=4)
    images = smooth_images()
    model.measure(images)
    seen = model.whiten(images)  # (N, 24, 31, 31); the bias is still 0
    channels = seen.transpose(0, 1).flatten(1)
    covariance = channels[:12] @ channels[:12].T / channels.shape[1]
    variances = torch.linalg.eigvalsh(covariance)
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 1e-3
    assert 0.9 < variances.max() < 1.001  # the least of them are held down by EPS
    assert torch.equal(seen[:, 12:], -seen[:, :12])
    before = create_model("airbench94", num_classes=10, width=4).whiten(images)
    assert before.transpose(0, 1).flatten(1)[:12].square().mean(1).max() > 2  # and was not white before


def test_measuring_changes_nothing_else_and_the_filters_never_learn():
    model = create_model("airbench94", num_classes=10, width=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.measure(smooth_images())
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["whiten.weight"]
    assert "whiten.weight" not in dict(model.named_parameters())


def test_the_convolutions_start_by_handing_on_what_they_are_given():
    group = create_model("airbench94", num_classes=10, width=32).group1
    maps = torch.randn(2, 24, 31, 31)
    assert torch.equal(group.conv1(maps)[:, :24], maps)
    assert not torch.allclose(group.conv1(maps)[:, 24:], torch.zeros(()))


def test_without_a_bias_no_gradient_is_computed_before_the_first_group():
    model = create_model("airbench94", num_classes=10, width=4, whiten_bias=False)
    assert not model.act(model.whiten(smooth_images(2))).requires_grad


def test_images_too_small_for_its_poolings_are_refused():
    with pytest.raises(ValueError, match="expected at least 16"):
        create_model("airbench94", num_classes=10, image_size=8)
