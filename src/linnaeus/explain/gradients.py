"""Whether the gradients of a layer are those of what it computes."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.func import functional_call

from linnaeus.core.errors import RequestError

STEP = 1e-6
"""Of the numerical derivatives, as in `gradcheck`."""


@dataclass(frozen=True)
class GradientVerdict:
    """What `gradcheck_layer` found; as text, the lines for a person.

    Attributes:
        is_right: whether all gradients are right, in training and in evaluation.
        lines: one for each mode and tensor: "train, weight: ..."; the input is called "input".
    """

    is_right: bool
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*self.lines, "all gradients are right" if self.is_right else "NOT all gradients are right"])


def gradcheck_layer(layer: nn.Module, shape: Sequence[int], *, seed: int = 0) -> GradientVerdict:
    """Compares a layer's gradients with differences of its outputs, in float64, as `torch.autograd.gradcheck` does.

        print(gradcheck_layer(MyLayer(4), (2, 4, 6, 6)))

    Looked at are the first derivatives with respect to the input and every parameter that trains, in training and in
    evaluation, at one random input. The layer itself is not changed. Layers that draw, such as dropout, get the same
    draws each time. The time grows with elements of input and parameters times that of a pass: take a small layer.

    Args:
        layer: returns one tensor.
        shape: of its input, with the batch.
        seed: of the input and of what the layer draws.

    Raises:
        RequestError: if the layer refuses an input of that shape in float64, or returns something else than a tensor.
    """
    layer = copy.deepcopy(layer).double().cpu()
    given = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lines, is_right = [], True
    for mode in (True, False):
        layer.train(mode)
        at = {"input": given, **{n: p.detach() for n, p in layer.named_parameters() if p.requires_grad}}
        _try_out(_function_of(layer, at, "input", seed), given, type(layer).__name__)
        for name, tensor in at.items():
            problem = _problem(_function_of(layer, at, name, seed), tensor)
            is_right &= problem is None
            lines.append(f"{'train' if mode else 'eval'}, {name} {tuple(tensor.shape)}: {problem or 'right'}")
    return GradientVerdict(is_right, tuple(lines))


def _try_out(function: Callable[[Tensor], object], given: Tensor, name: str) -> None:
    try:
        with torch.no_grad():
            output = function(given)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise RequestError(f"{name} refuses a float64 input of shape {tuple(given.shape)}: {error}") from None
    if not isinstance(output, Tensor):
        raise RequestError(f"{name} returns a {type(output).__name__}: wrap it in a layer that returns one tensor")


def _function_of(layer: nn.Module, at: dict[str, Tensor], name: str, seed: int) -> Callable[[Tensor], Tensor]:
    """The layer as a function of one tensor alone, with all else at rest; the same draws and statistics each time."""

    def function(tensor: Tensor) -> Tensor:
        tensors = {**at, name: tensor}
        given = tensors.pop("input")
        buffers = {key: buffer.clone() for key, buffer in layer.named_buffers()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output: Tensor = functional_call(layer, {**buffers, **tensors}, (given,))
        return output

    return function


def _problem(function: Callable[[Tensor], Tensor], at: Tensor) -> str | None:
    """What is wrong with the gradient of a function at a point, or None."""
    point = at.clone().requires_grad_()
    try:
        gradcheck(function, (point,), eps=STEP)
    except GradcheckError as error:
        found, expected = _jacobian(function, point), _differences(function, at)
        gaps = (found - expected).abs()
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-5):
            row, column = divmod(int(gaps.argmax()), gaps.shape[1])
            return (
                f"WRONG by at most {float(gaps.max()):.3g}: d output[{column}] / d element[{row}] is "
                f"{float(found[row, column]):.6g}, and differences give {float(expected[row, column]):.6g}"
            )
        return f"WRONG: {str(error).splitlines()[0]}"
    return None


def _jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """(elements, outputs) by autograd."""
    outputs = function(point).flatten()
    columns = []
    if not outputs.requires_grad:
        return torch.zeros(point.numel(), len(outputs), dtype=point.dtype)
    for output in outputs:
        gradient = torch.autograd.grad(output, point, retain_graph=True, allow_unused=True)[0]
        columns.append(torch.zeros_like(point).flatten() if gradient is None else gradient.flatten())
    return torch.stack(columns, 1)


def _differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """(elements, outputs) by central differences."""
    rows = []
    with torch.no_grad():
        for place in range(at.numel()):
            ends = []
            for sign in (1, -1):
                moved = at.clone()
                moved.view(-1)[place] += sign * STEP
                ends.append(function(moved).flatten())
            rows.append((ends[0] - ends[1]) / (2 * STEP))
    return torch.stack(rows)
