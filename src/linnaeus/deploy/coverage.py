"""How much of a network an artefact really computes in 8-bit integers, and which layers bear it worst."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linnaeus.deploy.graph import Graph

State = Literal["int8", "int8 weights", "float"]
"""What became of a layer: computed in integers, kept in them but computed in floating point, or left as it was."""


@dataclass(frozen=True)
class Trained:
    """A convolution or linear layer of a network.

    Attributes:
        name: of the sub-module of `Graph.network`.
        kind: "convolution" or "linear".
        weights: how many numbers its weight has.
        macs: multiply-accumulates for one image, of all its calls and without its bias.
    """

    name: str
    kind: str
    weights: int
    macs: int


@dataclass(frozen=True)
class Coverage:
    """Shares of a network, each in [0, 1], that an artefact computes in 8-bit integers.

    Attributes:
        layers, weights, macs: of the convolutions and linear layers, of their weights and of their work.
        convolutions, linears: (in integers, all) of each kind.
        kept: share of the weights that are stored in 8 bits, computed so or not.
        left: names of the layers that are not computed so.
    """

    layers: float
    weights: float
    macs: float
    convolutions: tuple[int, int]
    linears: tuple[int, int]
    kept: float
    left: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


@contextmanager
def _hooked(handles: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weighted(graph: Graph) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of a network, by name."""
    return {name: m for name, m in graph.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


@torch.no_grad()
def trained_layers(graph: Graph) -> list[Trained]:
    """The layers that one image passes, in the order of the network's definition."""
    layers, macs = weighted(graph), dict[nn.Module, int]()

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        places = output.numel() // output.shape[1 if isinstance(module, nn.Conv2d) else -1]  # of all views of the image
        macs[module] = macs.get(module, 0) + module.weight.numel() * places

    with _hooked([module.register_forward_hook(count) for module in layers.values()]):
        graph(graph.example(1))
    kinds = {name: "convolution" if isinstance(m, nn.Conv2d) else "linear" for name, m in layers.items()}
    return [Trained(name, kinds[name], m.weight.numel(), macs[m]) for name, m in layers.items() if m in macs]


def count_coverage(trained: list[Trained], states: Mapping[str, State]) -> Coverage:
    """Joins the layers of a network with what became of each in an artefact; one that is not named is in float."""
    done = [layer for layer in trained if states.get(layer.name) == "int8"]
    small = [layer for layer in trained if states.get(layer.name, "float") != "float"]

    def of(kind: str) -> tuple[int, int]:
        return sum(layer.kind == kind for layer in done), sum(layer.kind == kind for layer in trained)

    weights, macs = (max(1, sum(values)) for values in zip(*((one.weights, one.macs) for one in trained), strict=True))
    return Coverage(
        layers=len(done) / len(trained),
        weights=sum(layer.weights for layer in done) / weights,
        macs=sum(layer.macs for layer in done) / macs,
        convolutions=of("convolution"),
        linears=of("linear"),
        kept=sum(layer.weights for layer in small) / weights,
        left=tuple(layer.name for layer in trained if layer not in done),
    )


@torch.no_grad()
def sensitivity(graph: Graph, images: Tensor) -> dict[str, float]:
    """How far the probabilities move when one layer alone is quantized, in nats: the larger, the worse it bears it.

    The mean over the images of the Kullback-Leibler divergence from the network's own probabilities. A layer's weights
    are rounded to 8 bits symmetrically for each output channel and its input to 8 bits over the range that these images
    show, as the runtimes do it: a model of them that costs one forward pass a layer, on which no runtime depends.

    Args:
        images: (N, S, S, C) uint8.

    Returns:
        Name of the sub-module -> divergence, the worst first.
    """
    layers, ranges = weighted(graph), dict[nn.Module, tuple[float, float]]()

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = ranges.get(module, (0.0, 0.0))  # zero is always representable
        ranges[module] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    with _hooked([module.register_forward_pre_hook(watch) for module in layers.values()]):
        expected = _ask(graph, images)
    found = {}
    for name, module in layers.items():
        if module in ranges:
            with _quantized(module, *ranges[module]):
                found[name] = divergence(expected, _ask(graph, images), several=graph.several)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@contextmanager
def _quantized(module: nn.Conv2d | nn.Linear, low: float, high: float) -> Iterator[None]:
    """One layer as it computes in 8 bits, until the block ends."""
    step = max(high - low, 1e-12) / 255
    zero = round(-low / step)

    def round_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, 255)

    original = module.weight
    steps = (original.abs().flatten(1).amax(1) / 127).clamp_min(1e-12)
    zeros = torch.zeros(len(steps), dtype=torch.int32)
    rounded = torch.fake_quantize_per_channel_affine(original, steps, zeros, 0, -127, 127)
    module.weight = nn.Parameter(rounded, requires_grad=False)
    with _hooked([module.register_forward_pre_hook(round_input)]):
        try:
            yield
        finally:
            module.weight = original


def _ask(graph: Graph, images: Tensor) -> Tensor:
    """One image after another: what passes between the layers stays in the processor's caches."""
    return torch.cat([graph(image[None]) for image in images])


def divergence(expected: Tensor, found: Tensor, *, several: bool) -> float:
    """(N, K), (N, K) probabilities -> mean divergence of the second from the first; of the labels where several."""
    tiny = torch.finfo(torch.float32).tiny
    if several:
        expected, found = torch.stack([expected, 1 - expected], -1), torch.stack([found, 1 - found], -1)
    own = F.kl_div(found.clamp_min(tiny).log(), expected, reduction="none").sum(-1)
    return float(own.mean())
