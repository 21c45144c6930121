"""DropPath keeps the expectation, draws once for each sample, and is the identity where it is off."""

import pytest
import torch

from linnaeus.models.layers import DropPath, drop_path_rates


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_drop_path_in_evaluation_is_the_identity():
    x = torch.randn(4, 3)
    assert DropPath(0.5).eval()(x) is x


def test_drop_path_at_rate_zero_is_the_identity():
    x = torch.randn(4, 3)
    assert DropPath(0.0).train()(x) is x


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drop_path_keeps_the_expectation(rate):
    n = 100_000
    mean = DropPath(rate)(torch.ones(n, 1)).mean().item()
    standard_error = (rate / (1 - rate) / n) ** 0.5
    assert abs(mean - 1) < 4 * standard_error


@pytest.mark.parametrize("shape", [(64, 3), (64, 3, 4), (64, 3, 4, 5)])
def test_drop_path_drops_or_keeps_a_sample_as_a_whole(shape):
    x = torch.rand(shape) + 1
    scale = (DropPath(0.5)(x) / x).flatten(1)
    assert torch.equal(scale, scale[:, :1].expand_as(scale))
    assert set(scale[:, 0].round(decimals=5).tolist()) == {0.0, 2.0}


def test_drop_path_is_a_function_of_the_seed():
    x, layer = torch.ones(32, 1), DropPath(0.5)
    torch.manual_seed(7)
    first = layer(x)
    torch.manual_seed(7)
    assert torch.equal(layer(x), first)
    assert not torch.equal(layer(x), first)


def test_drop_path_in_bfloat16_rounds_once():
    x = torch.full((256, 1), 1.0, dtype=torch.bfloat16)
    kept = DropPath(0.1)(3 * x).unique()
    assert kept.tolist() == [0.0, torch.tensor(3 / 0.9).bfloat16().item()]


def test_the_gradient_of_drop_path_is_exact():
    def drop(x):
        torch.manual_seed(3)  # the same samples at each evaluation
        return DropPath(0.5)(x)

    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(drop, x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_below_one_is_refused(rate):
    with pytest.raises(ValueError, match=r"at least 0 and below 1"):
        DropPath(rate)


def test_rates_grow_linearly_from_zero_to_the_last():
    assert drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 4)[-1] == 0.3


def test_a_single_block_has_the_full_rate():
    assert drop_path_rates(0.3, 1) == [0.3]
