"""ONNX, run by ONNX Runtime."""

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.core.preprocess import Preprocess
from linnaeus.deploy.anysize import Fit, capture_any
from linnaeus.deploy.coverage import State, weighted
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import Graph, capture

FILE = "model.onnx"
OPSET = 20
BATCH = 16
"""Calibration images at once."""
WEIGHTED = ("Conv", "Gemm", "MatMul")
BETWEEN = ("Add", "GlobalAveragePool", "AveragePool", "MaxPool", "Relu", "Clip", "Concat")
"""What may compute in integers too, between the layers of a convolutional network. In networks with layer normalisation
a sum of many layers passes by, with a few values far larger than all others, and keeps its floating point."""


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
            quantize = _quantize_dynamic if job.precision == "int8-dynamic" else _quantize
            return _states(folder / FILE, quantize(job, plain, folder / FILE))
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


def widen(folder: Path, preprocess: Preprocess) -> None:
    """Puts the resize and the crop before the network of one image in `model.onnx`, which stays as it is."""
    import onnx

    network = onnx.load(folder / FILE)
    (opset,) = (each.version for each in network.opset_import if each.domain == "")
    with TemporaryDirectory(prefix="linnaeus-onnx-") as scratch, quiet():
        path = Path(scratch) / FILE
        torch.onnx.export(
            capture_any(Fit(preprocess.geometry).eval(), preprocess.channels),
            (),
            path,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=["prepared"],
            external_data=False,
            verbose=False,
        )
        fit = onnx.compose.add_prefix(onnx.load(path), "fit_")
    fit.ir_version = network.ir_version
    whole = onnx.compose.merge_models(fit, network, io_map=[("fit_prepared", "images")])
    for node in whole.graph.node:
        node.input[:] = ["images" if name == "fit_images" else name for name in node.input]
    whole.graph.input[0].name = "images"
    onnx.save(whole, folder / FILE)
    onnx.checker.check_model(folder / FILE, full_check=True)


def _quantize(job: Job, plain: Path, path: Path) -> dict[str, str]:
    """Static: ranges of all values from calibration images, weights by output channel. Gives `_operations`."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = plain.with_name("ready.onnx")
    with quiet():
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        operations = _operations(ready, job.graph)
        _shield(ready, [name for name, layer in operations.items() if layer in job.keep_float])
        kinds = {node.op_type for node in onnx.load(ready).graph.node}
        quantize_static(
            ready,
            path,
            _Reader(job.batches(job.batch or BATCH)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=[*WEIGHTED, *(() if "LayerNormalization" in kinds else BETWEEN)],
            nodes_to_exclude=_outside(ready, operations, job.keep_float),
        )
    return operations


def _quantize_dynamic(job: Job, plain: Path, path: Path) -> dict[str, str]:
    """Weights in 8 bits, ranges of what they meet measured as it comes: linear layers only. Gives `_operations`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        operations = _operations(plain, job.graph)
        quantize_dynamic(
            plain,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Gemm", "MatMul"],
            nodes_to_exclude=_outside(plain, operations, job.keep_float),
        )
    return operations


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
        *(state.RuntimeException, state.NoModel, state.NoSuchFile, state.EPFail),
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


def _operations(path: Path, graph: Graph) -> dict[str, str]:
    """Name of the operation -> name of the layer that its weight comes from, by the numbers: names do not all survive.

    Args:
        path: a file that has not been quantized.
    """
    import onnx

    names: dict[bytes, str] = {}
    for name, module in weighted(graph).items():
        weight = module.weight.numpy()
        names |= {_digest(weight): name, _digest(weight.T): name}
    found = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in found.initializer}
    operations = {}
    for node in found.node:
        if node.op_type in WEIGHTED and node.input[1] in stored:
            digest = _digest(onnx.numpy_helper.to_array(stored[node.input[1]]))
            if digest in names:
                operations[node.name] = names[digest]
    return operations


def _digest(weight: NDArray[np.float32]) -> bytes:
    return sha256(np.ascontiguousarray(weight).tobytes()).digest()


def _outside(path: Path, operations: Mapping[str, str], keep_float: frozenset[str]) -> list[str]:
    """The operations that are not to be quantized.

    They are those of layers that stay in float, all before the first layer and after the last, and products of two
    computed matrices, as attention has them.
    """
    import onnx

    nodes = list(onnx.load(path).graph.node)
    places = [number for number, node in enumerate(nodes) if node.name in operations]
    edges = [node.name for number, node in enumerate(nodes) if not places[0] <= number <= places[-1]]
    products = [node.name for node in nodes if node.op_type in WEIGHTED and node.name not in operations]
    kept = [name for name, layer in operations.items() if layer in keep_float]
    return [*edges, *products, *kept, *(f"{name}_MatMul" for name in kept)]  # what a Gemm becomes, where it is dynamic


def _shield(path: Path, names: Collection[str]) -> None:
    """Puts an operation that changes nothing before each of these, which are to stay in floating point.

    Between two rounded values ONNX Runtime would round their weights itself when it loads the file, with one range for
    all channels (its `WeightBiasQuantization`): worse than what they are kept from.
    """
    import onnx

    if not names:
        return
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(np.finfo(np.float32).max), "largest"))
    for number, node in reversed(list(enumerate(model.graph.node))):
        if node.name in names:
            shielded = f"{node.input[0]}_for_{node.name}"
            shield = onnx.helper.make_node("Min", [node.input[0], "largest"], [shielded], name=f"{node.name}_shield")
            node.input[0] = shielded
            model.graph.node.insert(number, shield)
    onnx.save(model, path)


def _states(path: Path, operations: Mapping[str, str]) -> dict[str, State]:
    """What became of each layer, by the weights and inputs of the operations in a quantized file."""
    import onnx

    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    small = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)

    def dequantized(value: str) -> bool:
        """Whether a value was in 8 bits, before it was turned round at most."""
        node = made_by.get(value)
        if node is not None and node.op_type in ("Transpose", "Reshape"):
            return dequantized(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    states: dict[str, State] = {}
    for node in graph.node:
        layer = operations.get(node.name.removesuffix("_quant").removesuffix("_MatMul"))  # what was a Gemm, with a sum
        if layer is None or node.op_type not in (*WEIGHTED, "MatMulInteger"):
            continue
        if node.op_type == "MatMulInteger":
            states[layer] = "int8" if stored.get(node.input[1]) in small else "float"
        else:
            inputs, weight = dequantized(node.input[0]), dequantized(node.input[1])
            states[layer] = "int8" if inputs and weight else "int8 weights" if weight else "float"
    return states
