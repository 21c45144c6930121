"""Quantization of a captured graph by torchao (PT2E), for the formats that compile one: AOTInductor and ExecuTorch."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from linnaeus.deploy.coverage import State, weighted
from linnaeus.deploy.formats.base import Job
from linnaeus.deploy.graph import EXAMPLES, MOST, capture


def quantize(job: Job, quantizer: Any, batch: int | None, *, most: int = MOST) -> tuple[GraphModule, dict[str, State]]:
    """The graph with quantized layers, and what became of each layer.

    Args:
        batch, most: as of `capture`.
        quantizer: of torchao or of a backend; it has been told which layers stay in float.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(capture(job.graph, batch, most=most).module(), quantizer)
    with torch.no_grad():
        for images in job.batches(batch or EXAMPLES):
            prepared(torch.from_numpy(images))
    converted = convert_pt2e(prepared)
    return converted, _states(converted, weighted(job.graph))


def _states(converted: GraphModule, names: Iterable[str]) -> dict[str, State]:
    found: dict[str, State] = {}
    known = set(names)
    for node in converted.graph.nodes:
        name = layer_of(node, known)
        if name is not None:
            inputs, weight = (_is_dequantized(argument) for argument in node.args[:2])
            found[name] = "int8" if inputs and weight else "int8 weights" if weight else "float"
    return found


def _is_dequantized(argument: Any) -> bool:
    return isinstance(argument, Node) and "dequantize" in str(argument.target)


def is_inside(node: Node) -> bool:
    """Whether an operation is the network's, or a weight: normalisation before it and calibration after it are not."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return not paths or any("network" in path for path in paths)


def layer_of(node: Node, known: Collection[str]) -> str | None:
    """The sub-module of the network that a convolution or matrix product came from."""
    if not any(kind in str(node.target) for kind in ("aten.conv", "aten.linear")):
        return None
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    own = paths[-1].removeprefix("L['self'].").removeprefix("network.") if paths else ""
    return own if own in known else None
