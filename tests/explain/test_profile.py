"""Where a step's time goes is told in shares that add up, and in words."""

import pytest
import torch
from torch import nn

from linnaeus.explain.profile import in_words, kind_of, profile_step

CPU = torch.device("cpu")


def test_a_step_of_matrix_products_is_said_to_be_that():
    matrix = torch.randn(300, 300)
    calls = []
    found = profile_step(lambda: calls.append(matrix @ matrix), device=CPU, steps=3, warm_up=1)
    assert len(calls) == 7
    assert next(iter(found.shares)) == "attention and matrix products"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.operators[0][0] == "aten::mm"
    assert found.operators[0][2] == 1  # calls a step
    assert 0 < found.busy <= 1
    assert "is attention and matrix products" in found.verdict


def test_the_parts_of_a_training_step_are_told_apart():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(8, 3, 32, 32)

    def take() -> None:
        torch.autograd.backward(model(images).sum())
        optimizer.step()
        optimizer.zero_grad()

    found = profile_step(take, device=CPU, steps=2)
    assert {"convolution", "normalisation", "pooling", "elementwise", "optimizer"} <= found.shares.keys()
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("cudnn::cnn::conv2d_grouped_direct_kernel", "convolution"),
        ("aten::addmm", "attention and matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention and matrix products"),
        ("aten::native_batch_norm_backward", "normalisation"),
        ("aten::max_pool2d_with_indices", "pooling"),
        ("Optimizer.step#SGD.step", "optimizer"),
        ("aten::_foreach_add_", "optimizer"),
        ("aten::copy_", "copies and layout"),
        ("aten::threshold_backward", "elementwise"),
        ("aten::nll_loss_forward", "other"),
    ],
)
def test_operators_are_sorted_by_what_they_do(operator, kind):
    assert kind_of(operator) == kind


def test_a_device_that_waits_is_said_to_wait():
    shares = {"convolution": 0.6, "elementwise": 0.4}
    assert in_words(0.0125, shares, 0.4, is_gpu=True) == (
        "a step takes 12.5 ms: 60% is convolution; then elementwise 40%. The GPU works 40% of the time, and the rest "
        "is the program around it: a larger batch helps"
    )
    assert "Operators work 40%" in in_words(0.0125, shares, 0.4, is_gpu=False)


def test_a_device_that_works_gets_what_helps_its_work():
    words = in_words(0.0125, {"attention and matrix products": 0.6, "elementwise": 0.4}, 0.95, is_gpu=True)
    assert "The GPU" not in words
    assert words.endswith("What helps: bf16 and a smaller network help")
