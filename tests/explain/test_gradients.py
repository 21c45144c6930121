"""A layer with right gradients passes, and the tensor whose gradient is wrong is named."""

import pytest
import torch
from torch import nn

from linnaeus.core.errors import RequestError
from linnaeus.explain import gradcheck_layer


class Scaled(torch.autograd.Function):
    """x * weight, with a gradient of the weight that is `factor` times the right one."""

    @staticmethod
    def forward(ctx, x, weight, factor):
        ctx.save_for_backward(x, weight)
        ctx.factor = factor
        return x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * weight, ctx.factor * (gradient * x).sum(0), None


class Scale(nn.Module):
    def __init__(self, *, train_factor=1.0, eval_factor=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.factors = {True: train_factor, False: eval_factor}

    def forward(self, x):
        return Scaled.apply(x, self.weight, self.factors[self.training])


def test_a_wrong_gradient_names_its_parameter_and_the_largest_difference():
    verdict = gradcheck_layer(Scale(train_factor=2.0, eval_factor=2.0), (1, 3))
    given = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[0]
    place = int(given.abs().argmax())
    assert not verdict.is_right
    assert verdict.lines[0] == "train, input (1, 3): right"
    assert verdict.lines[1] == (
        f"train, weight (3,): WRONG by at most {given[place].abs():.3g}: d output[{place}] / d element[{place}] is "
        f"{2 * given[place]:.6g}, and differences give {given[place]:.6g}"
    )
    assert str(verdict).endswith("NOT all gradients are right")


def test_a_gradient_that_is_wrong_only_in_evaluation_is_found():
    verdict = gradcheck_layer(Scale(eval_factor=1.01), (4, 3))
    assert [("WRONG" in line) for line in verdict.lines] == [False, False, False, True]
    assert gradcheck_layer(Scale(), (4, 3)).is_right


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5)), (2, 2, 4, 4)),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3), nn.GELU()), (2, 4)),
        (nn.Softmax(1), (2, 4)),
    ],
    ids=["convolution, batch norm, dropout", "layer norm, linear", "no parameters"],
)
def test_layers_of_pytorch_are_right_and_stay_as_they_were(layer, shape):
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    draws = torch.get_rng_state()
    verdict = gradcheck_layer(layer, shape)
    assert verdict.is_right, str(verdict)
    assert str(verdict).endswith("all gradients are right")
    assert layer.training
    assert torch.equal(draws, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert len(verdict.lines) == 2 * (1 + len(list(layer.parameters())))


def test_a_frozen_parameter_is_passed_over():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert [line.split(" (")[0] for line in gradcheck_layer(layer, (2, 3)).lines] == [
        *("train, input", "train, weight"),
        *("eval, input", "eval, weight"),
    ]


def test_a_parameter_without_any_gradient_is_wrong():
    class Detached(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight.detach(), self.bias)

    verdict = gradcheck_layer(Detached(3, 2), (2, 3))
    assert not verdict.is_right
    assert "train, weight (2, 3): WRONG" in verdict.lines[1]
    assert verdict.lines[2] == "train, bias (2,): right"


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Linear(3, 2), (2, 4), r"Linear refuses a float64 input of shape \(2, 4\)"),
        (nn.LSTM(3, 2), (2, 1, 3), "LSTM returns a tuple: wrap it in a layer that returns one tensor"),
    ],
)
def test_a_layer_that_cannot_be_checked_gets_one_line(layer, shape, message):
    with pytest.raises(RequestError, match=message):
        gradcheck_layer(layer, shape)
