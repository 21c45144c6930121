"""Losses and gradients are those of their formulas, such as softmax minus target; padding counts nothing."""

import pytest
import torch
import torch.nn.functional as F

from linnaeus.engine.loss import (
    LOSSES,
    binary_cross_entropy,
    binary_focal,
    cross_entropy,
    distill,
    focal,
    one_against_all,
)

VALID = torch.ones(64, dtype=torch.bool)

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


def multi_hot() -> torch.Tensor:
    return (torch.rand(N, K, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)


def mixed() -> torch.Tensor:
    return torch.rand(N, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(dim=1)


def weights() -> torch.Tensor:
    return torch.linspace(0.5, 2.0, K, dtype=torch.float64)


EVERY = [(task, name, loss) for task, losses in LOSSES.items() for name, loss in losses.items()]


@pytest.mark.parametrize(("task", "name", "loss"), EVERY, ids=[f"{task} {name}" for task, name, _ in EVERY])
def test_every_loss_ignores_padding_adds_up_over_parts_and_weighs_an_easy_image_less(task, name, loss, logits, classes):
    targets = classes if task == "single" else multi_hot()
    whole = loss(logits, targets, VALID, label_smoothing=0.1, class_weights=weights())
    parts = sum(
        loss(logits[part], targets[part], VALID[part], label_smoothing=0.1, class_weights=weights())
        for part in (slice(0, 20), slice(20, N))
    )
    torch.testing.assert_close(whole, parts)
    valid = torch.arange(N) % 3 > 0
    (gradient,) = torch.autograd.grad(loss(logits, targets, valid), logits)
    assert (gradient[~valid] == 0).all()
    assert (gradient[valid] != 0).any(dim=1).all()
    right = 2 * (targets if task == "multi" else F.one_hot(targets, K)).double() - 1
    assert loss(5 * right, targets, VALID) < 0.1 * loss(0 * right, targets, VALID)


@pytest.mark.parametrize(("task", "name", "loss"), EVERY, ids=[f"{task} {name}" for task, name, _ in EVERY])
def test_every_loss_is_computed_in_float32_and_has_finite_slopes_where_it_is_certain(task, name, loss):
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = truth if task == "multi" else truth.argmax(1)
    for sign in (1, -1):
        logits = (sign * 300 * (2 * truth - 1)).bfloat16().requires_grad_()
        result = loss(logits, targets, torch.tensor([True, True]))
        (gradient,) = torch.autograd.grad(result, logits)
        assert result.dtype == torch.float32
        assert torch.isfinite(result)
        assert torch.isfinite(gradient).all()


def test_class_weights_multiply_the_loss_of_the_class_as_in_torch(logits, classes):
    for targets in (classes, mixed()):
        loss = cross_entropy(logits, targets, VALID, class_weights=weights(), label_smoothing=0.1)
        smoothed = 0.9 * (F.one_hot(classes, K) if targets is classes else targets) + 0.1 / K
        torch.testing.assert_close(loss, -(weights() * smoothed * logits.log_softmax(dim=1)).sum())


def test_offsets_make_the_loss_that_of_logits_plus_log_priors(logits, classes):
    priors = torch.arange(1.0, K + 1, dtype=torch.float64) / (K * (K + 1) / 2)
    loss = cross_entropy(logits, classes, VALID, offsets=priors.log())
    scaled = priors * logits.exp()  # Menon et al., equation 10 with tau = 1
    expected = -(scaled[torch.arange(N), classes] / scaled.sum(dim=1)).log().sum()
    torch.testing.assert_close(loss, expected)
    # Where classes come as often as their priors, logits that say nothing are the best: no class is favoured.
    silent = torch.zeros(N, K, dtype=torch.float64, requires_grad=True)
    shares = priors.expand(N, K)
    (slope,) = torch.autograd.grad(cross_entropy(silent, shares, VALID, offsets=priors.log()), silent)
    assert slope.abs().max() < 1e-12
    (slope,) = torch.autograd.grad(cross_entropy(silent, shares, VALID), silent)
    assert slope.abs().max() > 0.05


def test_focal_loss_is_its_formula_and_without_gamma_cross_entropy(logits, classes):
    p = logits.softmax(dim=1)[torch.arange(N), classes]
    torch.testing.assert_close(focal(logits, classes, VALID, gamma=1.5), -((1 - p) ** 1.5 * p.log()).sum())
    for targets in (classes, mixed()):
        options = {"label_smoothing": 0.1, "class_weights": weights()}
        plain = cross_entropy(logits, targets, VALID, **options)
        torch.testing.assert_close(focal(logits, targets, VALID, gamma=0.0, **options), plain)


def test_binary_focal_loss_is_its_formula_and_without_gamma_binary_cross_entropy(logits):
    targets, p = multi_hot(), logits.sigmoid()
    said = torch.where(targets == 1, p, 1 - p)
    expected = -((1 - said) ** 2 * said.log()).mean(dim=1).sum()
    torch.testing.assert_close(binary_focal(logits, targets, VALID), expected)
    options = {"label_smoothing": 0.1, "class_weights": weights()}
    plain = binary_cross_entropy(logits, targets, VALID, **options)
    torch.testing.assert_close(binary_focal(logits, targets, VALID, gamma=0.0, **options), plain)


@pytest.mark.parametrize("loss", [focal, binary_focal])
def test_a_gamma_below_zero_raises(loss, logits):
    with pytest.raises(ValueError, match="gamma is -1"):
        loss(logits, multi_hot().double(), VALID, gamma=-1.0)


def test_one_against_all_takes_every_class_above_the_threshold_for_wholly_there(logits):
    targets = torch.zeros(N, K, dtype=torch.float64)
    targets[:, 0], targets[:, 1], targets[:, 2] = 0.5, 0.3, 0.2
    there = torch.tensor([1, 1, 0, 0, 0, 0, 0]).expand(N, K)
    assert one_against_all(logits, targets, VALID, threshold=0.2) == binary_cross_entropy(logits, there, VALID)
    assert one_against_all(logits, targets, VALID) == binary_cross_entropy(logits, targets, VALID)
    with pytest.raises(ValueError, match="threshold is"):
        one_against_all(logits, targets, VALID, threshold=1.0)


def test_one_against_all_smooths_over_all_classes(logits, classes):
    smoothed = 0.9 * F.one_hot(classes, K) + 0.1 / K
    loss = one_against_all(logits, classes, VALID, label_smoothing=0.1)
    torch.testing.assert_close(loss, binary_cross_entropy(logits, smoothed, VALID))


def test_distilling_is_the_divergence_and_its_gradient_the_difference_of_softened_probabilities(logits):
    teacher = torch.randn(N, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    p, q = (teacher / 3).softmax(dim=1).detach(), (logits / 3).softmax(dim=1)
    loss = distill(logits, teacher, VALID, temperature=3.0)
    torch.testing.assert_close(loss, 9 * (p * (p.log() - q.log())).sum())
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, 3 * (q - p))
    assert not distill(logits.detach(), teacher, VALID).requires_grad
    assert distill(logits, logits, VALID, temperature=2.0).item() == pytest.approx(0.0, abs=1e-12)
    valid = torch.arange(N) < 3
    torch.testing.assert_close(distill(logits, teacher, valid), distill(logits[:3], teacher[:3], valid[:3]))
    with pytest.raises(ValueError, match="temperature is"):
        distill(logits, teacher, VALID, temperature=0.0)


def test_the_gradient_of_binary_cross_entropy_is_sigmoid_minus_target_over_the_classes(logits, classes):
    targets = (torch.rand(N, K, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)
    valid = torch.arange(N) % 3 > 0
    (result,) = torch.autograd.grad(binary_cross_entropy(logits, targets, valid), logits)
    torch.testing.assert_close(result, (logits.sigmoid() - targets) / K * valid[:, None])


def test_binary_cross_entropy_takes_a_class_for_its_one_hot_and_smooths_over_both_answers(logits, classes):
    valid = VALID
    smoothed = 0.9 * F.one_hot(classes, K).double() + 0.05
    expected = -(smoothed * logits.sigmoid().log() + (1 - smoothed) * (-logits).sigmoid().log()).mean(dim=1).sum()
    loss = binary_cross_entropy(logits, classes, valid, label_smoothing=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_class_weights_of_binary_cross_entropy_multiply_the_yes(logits):
    targets = multi_hot()
    yes, no = logits.sigmoid().log(), (-logits).sigmoid().log()
    expected = -(weights() * targets * yes + (1 - targets.double()) * no).mean(dim=1).sum()
    torch.testing.assert_close(binary_cross_entropy(logits, targets, VALID, class_weights=weights()), expected)
