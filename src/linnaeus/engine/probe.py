"""A linear head fitted to the features of a network that stays as it is: logistic regression with an L2 penalty.

The features are centred and divided by one number, so that a penalty means the same to every network and the features
keep their sizes relative to each other. How strong it is, is chosen by what the heads say of held-out images: those of
val; and where these are few, each fifth of the training images too, by a head that was fitted to the other four.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, weights) -> the loss summed over the images, each as often as it weighs."""

STRENGTHS = tuple(10 ** (-i / 2) for i in range(8))
"""Factors of the penalty, the strongest first: 1, 0.32, ... 0.00032. Each fit begins where the one before it ended."""
FOLDS = 5
ENOUGH = 500
"""Images of val from which on they decide alone: with 24, the difference of two heads can be that of a single image."""
RISES = 2
ITERATIONS = 300


@dataclass(frozen=True)
class Examples:
    """What a head is fitted to, or judged on.

    Attributes:
        features: (N, D) float.
        targets: as the loss takes them.
        weights: (N,) float, how often each counts.
    """

    features: Tensor
    targets: Tensor
    weights: Tensor

    def at(self, rows: Tensor) -> "Examples":
        """Those at `rows`, positions or a mask."""
        return Examples(self.features[rows], self.targets[rows], self.weights[rows])


@dataclass(frozen=True)
class Head:
    """A linear head for features as they are.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        strength: of the penalty.
        held_out: strength -> mean loss of the held-out images.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    held_out: dict[float, float]


class Gathered:
    """The features of images, a batch at a time."""

    def __init__(self) -> None:
        """None yet."""
        self._features: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, features: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Takes in the valid images of a batch: (B, D) float, targets as the loader has them, (B,) bool."""
        self._features.append(features[valid].float().cpu())
        self._targets.append(targets[valid].cpu())

    def read(self) -> dict[str, Tensor]:
        """ "features", (N, D) float32, and "targets", on the CPU."""
        return {"features": torch.cat(self._features), "targets": torch.cat(self._targets)}


def fit_head(train: Examples, val: Examples, *, num_classes: int, loss: Loss, judge: Loss) -> Head:
    """The head whose loss on `train`, with a penalty, is least, for the penalty that `judge` finds best on others.

    Penalties are tried from the strongest on, until the held-out loss has risen twice in a row. Everything is computed
    in float64 on the device of the features, and nothing is random.

    Args:
        train, val: on one device.
        num_classes: K.
        loss: what the head minimises.
        judge: how held-out images are judged.
    """
    share = (train.weights.double() / train.weights.double().sum())[:, None]
    centre = (share * train.features).sum(0)
    spread = (share * (train.features - centre).square()).sum(0).mean().sqrt().clamp(min=1e-12)
    # Along the principal axes the loss is nearly a sum of one term an axis, and where there are fewer images than
    # features, the best weights have no other axes (the representer theorem).
    _, lengths, axes = torch.linalg.svd(torch.linalg.qr((train.features - centre) / spread, mode="r").R, False)
    turn = axes.T / spread  # (D, R), R the smaller of N and D
    train, val = (Examples((e.features - centre) @ turn, e.targets, e.weights.double()) for e in (train, val))
    curvature = torch.cat([lengths.square() / len(train.targets), lengths.new_ones(1)]) / 4  # of logistic loss, at most

    pairs = [(train, val)]
    if len(val.targets) < ENOUGH:
        fold = _folds(train.targets)
        pairs += [(train.at(fold != number), train.at(fold == number)) for number in range(FOLDS)]
    heads = [train.features.new_zeros(num_classes, len(curvature)) for _ in pairs]
    count = sum(float(others.weights.sum()) for _, others in pairs)
    best, held_out = heads[0], dict[float, float]()
    for strength in STRENGTHS:
        heads = [_fit(own, head, strength, curvature, loss) for (own, _), head in zip(pairs, heads, strict=True)]
        judged = [judge(_logits(o, head), o.targets, o.weights) for (_, o), head in zip(pairs, heads, strict=True)]
        held_out[strength] = float(torch.stack(judged).sum()) / count
        if held_out[strength] <= min(held_out.values()):
            best = heads[0]
        if len(held_out) > RISES and min(list(held_out.values())[-RISES:]) > min(held_out.values()):
            break
    weight = best[:, :-1] @ turn.T
    return Head(weight, best[:, -1] - weight @ centre, min(held_out, key=held_out.__getitem__), held_out)


def _fit(train: Examples, start: Tensor, strength: float, curvature: Tensor, loss: Loss) -> Tensor:
    """(K, R + 1), weight and bias. L-BFGS, in steps that are as long as the curvature allows on each axis."""
    penalty = strength * torch.cat([torch.ones_like(curvature[1:]), curvature.new_zeros(1)])
    unit = (curvature + penalty).rsqrt()
    head = (start / unit).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [head], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        mean = loss(_logits(train, head * unit), train.targets, train.weights) / train.weights.sum()
        penalised = mean + (penalty * (head * unit).square()).sum() / 2
        torch.autograd.backward(penalised)
        return float(penalised.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (head * unit).detach()


def _logits(examples: Examples, head: Tensor) -> Tensor:
    return examples.features @ head[:, :-1].T + head[:, -1]


def _folds(targets: Tensor) -> Tensor:
    """(N,) the fold of each image: every class, where an image has one, is in all folds alike."""
    order = torch.argsort(targets, stable=True) if targets.ndim == 1 else torch.arange(len(targets))
    fold = torch.empty(len(targets), dtype=torch.int64, device=targets.device)
    fold[order] = torch.arange(len(targets), device=targets.device) % FOLDS
    return fold
