"""The loss and its gradient are those of the formulas: softmax minus target, over the number of images."""

import pytest
import torch
import torch.nn.functional as F

from linnaeus.engine.loss import cross_entropy

N, K = 64, 7


@pytest.fixture
def logits():
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(3).requires_grad_()


@pytest.fixture
def classes():
    return torch.arange(N) % K


def gradient(logits, targets, valid=None, **options):
    valid = torch.ones(N, dtype=torch.bool) if valid is None else valid
    (result,) = torch.autograd.grad(cross_entropy(logits, targets, valid, **options) / N, logits)
    return result


def test_the_gradient_is_softmax_minus_one_hot(logits, classes):
    expected = (logits.softmax(dim=1) - F.one_hot(classes, K)) / N
    assert (gradient(logits, classes) - expected).abs().max() < 1e-8


def test_the_gradient_of_soft_targets_is_softmax_minus_targets(logits):
    targets = torch.rand(N, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)
    expected = (logits.softmax(dim=1) - targets) / N
    assert (gradient(logits, targets) - expected).abs().max() < 1e-8


def test_the_gradient_of_smoothed_labels_is_softmax_minus_the_smoothed_one_hot(logits, classes):
    targets = 0.9 * F.one_hot(classes, K) + 0.1 / K
    expected = (logits.softmax(dim=1) - targets) / N
    assert (gradient(logits, classes, label_smoothing=0.1) - expected).abs().max() < 1e-8


def test_padding_has_no_gradient_and_changes_no_other(logits, classes):
    valid = torch.arange(N) % 3 > 0
    expected = gradient(logits, classes) * valid[:, None]
    assert torch.equal(gradient(logits, classes, valid), expected)


def test_the_loss_is_the_sum_of_minus_the_log_of_the_probability_of_the_class(logits, classes):
    probabilities = logits.softmax(dim=1)[torch.arange(N), classes]
    loss = cross_entropy(logits, classes, torch.ones(N, dtype=torch.bool))
    assert loss.item() == pytest.approx(-probabilities.log().sum().item(), rel=1e-6)


def test_the_gradients_of_an_image_sum_to_zero(logits, classes):
    assert gradient(logits, classes).sum(dim=1).abs().max() < 1e-8


def test_huge_logits_give_a_finite_loss_and_the_gradient_of_a_certain_mistake():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1]), torch.tensor([True]))
    (result,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 2e4
    assert result.tolist() == [[1.0, -1.0]]
