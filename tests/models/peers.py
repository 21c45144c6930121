"""How gradients and first weights are compared with another implementation, and the gradients of one layer checked."""

import pytest
import torch
import torch.nn.functional as F

from linnaeus.models.keys import to_ours

from .reference import perturb


def timm_network(name, **options):
    """A network of timm, with random weights; skips where timm is not installed."""
    timm = pytest.importorskip("timm", reason="timm is the reference here, and it is not installed: pip install timm")
    return timm.create_model(name, **options)


def assert_same_gradients(ours, theirs, image_size):
    """The gradients of the cross-entropy in training mode, in double precision, to 1e-10 of the largest of them.

    Of the largest and not of each parameter's own, because some are 0 but for rounding, such as that of a shift before
    a 1x1 convolution and batch normalisation, which removes it.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, image_size, image_size, generator=generator, dtype=torch.float64)
    targets = torch.arange(4)
    for model in (ours, theirs):
        F.cross_entropy(model.double().train()(images), targets).backward()
    expected = to_ours(ours, {name: p.grad for name, p in theirs.named_parameters()})
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-3
    for name, parameter in ours.named_parameters():
        assert (parameter.grad - expected[name]).abs().max() < 1e-10 * largest, name


def assert_same_spread(ours, theirs):
    """The first value of each tensor is the same constant, or is drawn around 0 with the same std and the same kind.

    The bounds are five standard errors; the largest of many draws tells a normal distribution from a uniform one.
    """
    expected = to_ours(ours, theirs.state_dict())
    for name, tensor in ours.state_dict().items():
        if (expected[name] == expected[name].flatten()[0]).all():
            assert torch.equal(tensor, expected[name]), name
            continue
        error = tensor.numel() ** -0.5
        assert (tensor.std() / expected[name].std() - 1).abs() < 5 * error, name
        assert tensor.mean().abs() < 5 * error * expected[name].std(), name
        if tensor.numel() > 10_000:
            is_normal, expected_normal = (t.abs().max() > 2 * t.std() for t in (tensor, expected[name]))
            assert is_normal == expected_normal, name


def assert_exact_gradients(module, *shape):
    """Autograd's gradients of a layer equal difference quotients, for its input and all its parameters, in training.

    In double precision; a layer with parameters has them drawn anew.
    """
    module = perturb(module).double().train()
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)

    def output(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *module.parameters()))
