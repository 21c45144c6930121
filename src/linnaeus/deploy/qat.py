"""Quantization-aware training: weights learn to bear the rounding to 8 bits, before a runtime rounds them.

The float network computes as if its convolutions and linear layers took 8-bit integers, and is trained for a short time
to say what it said without that. The rounding passes gradients as if it were not there, but for values outside of its
range (Jacob et al., CVPR 2018, arXiv:1712.05877, section 3; Bengio et al., arXiv:1308.3432). What is left are plain
weights, which each runtime quantizes in its own way. No labels are needed: the network is its own teacher.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from linnaeus.core.errors import NotFinite
from linnaeus.core.seed import permutation
from linnaeus.deploy.coverage import divergence, weighted
from linnaeus.deploy.graph import Graph
from linnaeus.optim.schedule import cosine

EPOCHS, STEPS = 2, 200
"""How long: so many times over the images, and no more steps than that."""
BATCH = 16
RATE = 0.01
"""How far a step of training moves a weight, nearly at most: as a share of the step that it is rounded by."""
SHRINKS = 0.05
"""How much nearer a range comes to what is seen, at each step in which less of it is used."""
TINY = 1e-12


@dataclass(frozen=True)
class Tuning:
    """What was done to the weights, and what it was good for.

    Attributes:
        images: training images that they were tuned on.
        before, after: how far the rounding moves the probabilities of images that were not trained on, in nats: the
            mean Kullback-Leibler divergence from the network's own.
        taken: whether the tuned weights are exported; where rounding hurts them no less, the network's own are.
    """

    steps: int
    images: int
    seed: int
    seconds: float
    before: float
    after: float
    taken: bool

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def in_words(self) -> str:
        """A line for people."""
        did = f"{self.steps} steps on {self.images:,} training images in {self.seconds:.0f} s"
        moved = f"rounding moves probabilities by {self.after:.2g} nats instead of {self.before:.2g}"
        return f"{did}: {moved}" if self.taken else f"{did}: {moved}, no less: the network's own weights are kept"


class _RoundedWeight(nn.Module):
    """Rounds a weight to 8 bits, symmetrically for each output channel.

    What is trained is the weight as a multiple of the steps that it was first rounded by. Folding leaves channels of
    very different sizes, and AdamW moves all numbers by the same amount: so it moves none of them too far.

    Attributes:
        rounds: whether anything is rounded; else the weight passes as it is.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.rounds, self._unit = True, _steps(weight).reshape(-1, *(1 for _ in weight.shape[1:]))

    def forward(self, multiple: Tensor) -> Tensor:
        """(O, ...) float -> the same shape, on the 255 steps from the negative of the largest to the largest."""
        weight = multiple * self._unit
        if not self.rounds:
            return weight
        steps = _steps(weight)
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -127, 127)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """(O, ...) float -> the multiple that `forward` makes it of."""
        return weight / self._unit


def _steps(weight: Tensor) -> Tensor:
    """(O, ...) -> (O,), what each output channel is rounded by."""
    return (weight.detach().abs().flatten(1).amax(1) / 127).clamp_min(TINY)


class _RoundedInput:
    """Rounds what a layer is given to 8 bits, over the range that was seen: a hook before its `forward`.

    A range grows at once to what is seen, as the runtimes' ranges cover all that calibration shows, and shrinks slowly.

    Attributes:
        watches: whether the range follows what is seen.
        rounds: whether anything is rounded; else the input passes as it is.
    """

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0  # zero is always representable
        self.watches, self.rounds, self._is_new = True, True, True

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.watches:
            self._watch(*(float(end) for end in torch.aminmax(inputs[0].detach())))
        if not self.rounds:
            return inputs
        step = max(self.high - self.low, TINY) / 255
        return torch.fake_quantize_per_tensor_affine(inputs[0], step, round(-self.low / step), 0, 255), *inputs[1:]

    def _watch(self, low: float, high: float) -> None:
        low, high = min(low, 0.0), max(high, 0.0)
        shrinks = 1.0 if self._is_new else SHRINKS
        self.low = min(low, self.low + shrinks * (low - self.low))
        self.high = max(high, self.high + shrinks * (high - self.high))
        self._is_new = False


@contextmanager
def _rounded(graph: Graph) -> Iterator[list[_RoundedInput]]:
    """The network computes as in 8 bits until the block ends; then it has plain weights again."""
    layers = list(weighted(graph).values())
    inputs = [_RoundedInput() for _ in layers]
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in zip(layers, inputs, strict=True)]
    weights = [_RoundedWeight(layer.weight) for layer in layers]
    for layer, weight in zip(layers, weights, strict=True):
        parametrize.register_parametrization(layer, "weight", weight)
    try:
        yield inputs
    finally:
        for layer, weight in zip(layers, weights, strict=True):
            weight.rounds = False
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for handle in handles:
            handle.remove()


def tune(
    graph: Graph, images: Tensor, *, seed: int = 0, advance: Callable[[int], None] = lambda _: None
) -> tuple[Graph, int]:
    """A copy of a graph whose weights bear the rounding to 8 bits better, and how many steps that took.

    Args:
        graph: not changed.
        images: (N, S, S, C) uint8, training images as calibration sees them.
        seed: decides the order of the images, which is all that is drawn.
        advance: told of each step; `count_steps` says how many there will be.

    Raises:
        NotFinite: if a loss or a gradient becomes NaN or infinite.
    """
    expected = _ask(graph, images)
    made, total = deepcopy(graph), count_steps(len(images))
    with _rounded(made):
        optimizer = torch.optim.AdamW(_groups(made), weight_decay=0.0)
        rates = [group["lr"] for group in optimizer.param_groups]
        for step, index in enumerate(_batches(len(images), total, seed)):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * cosine((step + 0.5) / total, warmup=0.1)
            optimizer.zero_grad()
            loss = _loss(expected[index], made.calibrated(images[index]), several=graph.several)
            loss.backward()  # type: ignore[no-untyped-call]
            _check_finite(made, loss, step)
            optimizer.step()
            advance(1)
    return made.requires_grad_(False), total


def count_steps(number: int) -> int:
    """How many steps `tune` takes on so many images."""
    return min(STEPS, EPOCHS * -(-number // BATCH))


@torch.no_grad()
def harm(graph: Graph, ranges: Tensor, images: Tensor, expected: Tensor) -> float:
    """How far the probabilities move when all layers are rounded, in nats; NaN where they are no numbers any more.

    A model of what the runtimes do, as `coverage.sensitivity` is one of what they do to a single layer.

    Args:
        ranges: (M, S, S, C) uint8, images that the ranges are measured on.
        images: (N, S, S, C) uint8.
        expected: (N, K) probabilities.
    """
    copy = deepcopy(graph)
    with _rounded(copy) as inputs:
        for hook in inputs:
            hook.rounds = False
        _ask(copy, ranges)
        for hook in inputs:
            hook.rounds, hook.watches = True, False
        found = torch.cat([copy(part) for part in torch.split(images, BATCH)])
    return divergence(expected, found, several=graph.several)


@dataclass(frozen=True)
class Images:
    """What tuning is given to see, all of it (N, S, S, C) uint8.

    Attributes:
        training: that the weights are tuned on.
        ranges: training images that the ranges are measured on, as calibration does.
        apart: images that were not trained on, with the network's own (N, K) probabilities in `expected`.
    """

    training: Tensor
    ranges: Tensor
    apart: Tensor
    expected: Tensor


def tuned(
    graph: Graph, images: Images, *, seed: int = 0, advance: Callable[[int], None] = lambda _: None
) -> tuple[Graph, Tuning]:
    """The graph to quantize: with tuned weights if these lose less by rounding, else as it is.

    Args:
        graph, seed, advance: as of `tune`.

    Raises:
        NotFinite: if a loss or a gradient becomes NaN or infinite.
    """
    started = perf_counter()
    before = harm(graph, images.ranges, images.apart, images.expected)
    made, steps = tune(graph, images.training, seed=seed, advance=advance)
    after = harm(made, images.ranges, images.apart, images.expected)
    taken = after < before
    seconds = round(perf_counter() - started, 1)
    return made if taken else graph, Tuning(steps, len(images.training), seed, seconds, before, after, taken)


@torch.no_grad()
def _ask(graph: Graph, images: Tensor) -> Tensor:
    """(N, S, S, C) uint8 -> (N, K) calibrated logits."""
    return torch.cat([graph.calibrated(part) for part in torch.split(images, BATCH)])


def _batches(number: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Positions of the images of each step; every epoch in an order of its own."""
    each = -(-number // BATCH)
    for epoch in range(-(-steps // each)):
        order = torch.from_numpy(permutation(number, seed=seed, epoch=epoch))
        yield from torch.split(order, BATCH)[: steps - epoch * each]


def _groups(graph: Graph) -> list[dict[str, Any]]:
    """The weights, which are multiples of their steps, and the biases, as if they were rounded like weights."""
    found: list[dict[str, Any]] = []
    for layer in weighted(graph).values():
        for parameter in layer.requires_grad_(True).parameters():
            unit = float(_steps(parameter[None])) if parameter is layer.bias else 1.0
            found.append({"params": [parameter], "lr": RATE * unit})
    return found


def _loss(expected: Tensor, found: Tensor, *, several: bool) -> Tensor:
    """(B, K), (B, K) calibrated logits -> mean divergence of the second's probabilities from the first's."""
    if several:
        wanted, logs = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], -1) for x in (expected, found))
    else:
        wanted, logs = expected.log_softmax(1), found.log_softmax(1)
    return F.kl_div(logs, wanted, reduction="none", log_target=True).sum(-1).mean()


def _check_finite(graph: Graph, loss: Tensor, step: int) -> None:
    gradients = [parameter.grad.sum() for parameter in graph.parameters() if parameter.grad is not None]
    if not bool(torch.isfinite(torch.stack([loss.detach(), *gradients])).all()):
        raise NotFinite(f"--qat: the loss or its gradient is no number at step {step}: export without --qat")
