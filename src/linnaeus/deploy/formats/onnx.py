"""ONNX, run by ONNX Runtime."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.deploy.coverage import State, weighted
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import Graph, capture

FILE = "model.onnx"
OPSET = 20
BATCH = 16
"""Calibration images at once."""
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "AveragePool", "MaxPool", "Relu", "Clip", "Concat")
"""Operations that may compute in integers; softmax, normalisation and GELU lose too much."""


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.onnx`."""
    if job.precision == "f32":
        export(job.graph, job.batch, folder / FILE)
    elif job.precision == "f16":
        export(job.graph.narrowed(torch.float16), job.batch, folder / FILE)
    else:
        with TemporaryDirectory(prefix="linnaeus-onnx-") as scratch:
            plain = Path(scratch) / FILE
            export(job.graph, job.batch, plain)
            (_quantize_dynamic if job.precision == "int8-dynamic" else _quantize)(job, plain, folder / FILE)
        return {name: state for _, name, state in _walk(folder / FILE, weighted(job.graph))}
    return {}


def export(graph: Graph, batch: int | None, path: Path) -> None:
    """A graph as one ONNX file, checked by the `onnx` package."""
    import onnx

    with quiet():
        torch.onnx.export(
            capture(graph, batch),
            (),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            external_data=False,
            verbose=False,
        )
    onnx.checker.check_model(path, full_check=True)


def _quantize(job: Job, plain: Path, path: Path) -> None:
    """Static: the ranges of all values from calibration images, weights for each output channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = plain.with_name("ready.onnx")
    with quiet():
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            path,
            _Reader(job.batches(job.batch or BATCH)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_outside(ready, job.keep_float),
        )


def _quantize_dynamic(job: Job, plain: Path, path: Path) -> None:
    """Weights in 8 bits, and the ranges of what they meet measured as it comes: linear layers only."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            plain,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Gemm", "MatMul"],
            nodes_to_exclude=_outside(plain, job.keep_float),
        )


class _Reader:
    """Calibration images, a batch at a time, as ONNX Runtime asks for them."""

    def __init__(self, batches: list[Pixels]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Pixels] | None:
        """The next batch; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def open_model(folder: Path, _precision: str) -> Run:
    """A session of ONNX Runtime."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (
        *(state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented),
        *(state.RuntimeException, state.NoModel, state.EPFail),
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise Unrunnable(f"{folder / FILE}: ONNX Runtime cannot load it: {first_line(error)}") from None

    def run(images: Pixels) -> NDArray[np.float32]:
        try:
            (found,) = session.run(None, {"images": images})
        except failures as error:
            raise Unrunnable(f"{len(images)} images at once: ONNX Runtime stopped: {first_line(error)}") from None
        probabilities: NDArray[np.float32] = found
        return probabilities

    return run


def describe(folder: Path, about: dict[str, str]) -> None:
    """Puts a description into the file itself, for those who are handed nothing else."""
    import onnx

    model = onnx.load(folder / FILE)
    onnx.helper.set_model_props(model, about)
    onnx.save(model, folder / FILE)


def _outside(path: Path, keep_float: frozenset[str]) -> list[str]:
    """The operations that are not to be quantized: of layers that stay in float, before the network and after it."""
    import onnx

    model = onnx.load(path)
    weighted = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    own = {node: name for node, name, _ in _walk(path, keep_float)}
    last = list(model.graph.node).index(weighted[-1])
    first = list(model.graph.node).index(weighted[0])
    edges = [node.name for number, node in enumerate(model.graph.node) if not first <= number <= last]
    return [*own, *edges]


def _walk(path: Path, names: Iterable[str]) -> Iterator[tuple[str, str, State]]:
    """(operation, layer, what became of it) of every operation with the weight of one of these layers."""
    import onnx

    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def source(value: str) -> Any:
        """The operation that made a value, behind those that only turn it round."""
        node = made_by.get(value)
        return source(node.input[0]) if node is not None and node.op_type in ("Transpose", "Reshape") else node

    def weight(value: str) -> Any:
        """The stored tensor behind a value; None if there is none."""
        node = source(value)
        if node is not None and node.op_type == "DequantizeLinear":
            return weight(node.input[0])
        while value not in stored and value in made_by and made_by[value].op_type in ("Transpose", "Reshape"):
            value = made_by[value].input[0]
        return stored.get(value)

    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul", "ConvInteger", "MatMulInteger"):
            continue
        tensor = weight(node.input[1])
        name = None if tensor is None else _layer_of(tensor.name, names)
        if name is None:
            continue
        is_small = tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        feeder = source(node.input[0])
        computed = node.op_type.endswith("Integer") or (feeder is not None and feeder.op_type == "DequantizeLinear")
        yield node.name, name, "int8" if is_small and computed else "int8 weights" if is_small else "float"


def _layer_of(tensor: str, names: Iterable[str]) -> str | None:
    """`layer1.0.conv1` of `network.layer1.0.conv1.weight_quantized`."""
    found = [name for name in names if tensor.startswith(f"network.{name}.weight")]
    return found[0] if found else None
