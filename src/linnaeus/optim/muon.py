"""Muon: momentum whose every matrix is replaced by the nearest orthogonal one; AdamW for all that is not a matrix.

Keller Jordan et al. (2024, kellerjordan.github.io/posts/muon); the scale that lets it share AdamW's learning rate and
weight decay is that of Liu et al. (arXiv:2502.16982). `torch.optim.Muon` refuses convolutions, and leaves the other
parameters to a second optimizer; this one takes them all, so that a run has one optimizer to schedule and to save.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from linnaeus.core.device import has_bf16

# A quintic with a steep slope at 0: five rounds bring all but the smallest singular values to between 0.7 and 1.2,
# which trains as well as exact ones (Jordan et al.).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(Optimizer):
    """Groups with `hidden` set are orthogonalised; the others are AdamW's.

    What a hidden group holds are matrices (R, C), or the kernels (R, ...) of convolutions, taken as (R, the rest).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = False,
    ) -> None:
        """Nothing of this happens before the first step.

        Args:
            groups: from `param_groups`, split by `mark_hidden`.
            lr: of both parts: an update has the root mean square that is usual for AdamW's, 0.2.
            momentum: in [0, 1), of the hidden groups; in the form of Nesterov.
            betas, eps: of AdamW.
            fused: whether AdamW is one kernel.

        Raises:
            ValueError: no group is hidden, or a hidden one holds a vector.
        """
        hidden = [parameter for group in groups if group.get("hidden") for parameter in group["params"]]
        if not hidden:
            raise ValueError("Muon was given no hidden matrices: mark them with mark_hidden, or take AdamW")
        flat = next((tuple(p.shape) for p in hidden if p.ndim < 2), None)
        if flat is not None:
            raise ValueError(f"a hidden parameter has the shape {flat}: Muon needs matrices or kernels")
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(groups, {**defaults, "fused": fused, "hidden": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Raises:
            ValueError: a closure was given; gradients must be there already.
        """
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before step()")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._step_hidden if group["hidden"] else self._step_others)(parameters, group)

    def _step_hidden(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # Matrices of one shape, of which Transformers have many, are one batched product.
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for number, parameter in enumerate(parameters):
            alike[parameter.shape[0], parameter.shape[1:].numel()].append(number)
        for (rows, columns), numbers in alike.items():
            steps = orthogonalize(torch.stack([updates[number].reshape(rows, columns) for number in numbers]))
            scale = 0.2 * max(rows, columns) ** 0.5
            for number, step in zip(numbers, steps, strict=True):
                parameter = parameters[number]
                parameter.add_(step.view(parameter.shape), alpha=-group["lr"] * scale)

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalize(matrices: Tensor) -> Tensor:
    """(N, R, C) -> (N, R, C), about U V^T of the singular value decomposition U S V^T of each.

    By five rounds of a Newton-Schulz iteration, which is made of products alone, in bfloat16 where the device computes
    in it. A matrix of zeros stays what it is.
    """
    x = matrices.to(torch.bfloat16 if has_bf16(matrices.device) else torch.float32)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x  # the smaller of the two squares is the cheaper one
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value exceeds 1
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype).contiguous()
