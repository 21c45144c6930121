"""OpenVINO's intermediate representation, run by its CPU plugin; quantized by NNCF."""

import logging
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.deploy.coverage import State, weighted
from linnaeus.deploy.formats.base import Job, Pixels, Run, Unrunnable, first_line, quiet
from linnaeus.deploy.graph import capture

FILE = "model.xml"
HINTS = {"f32": "f32", "bf16": "bf16", "int8": "f32"}
"""The plugin computes in bfloat16 by itself where the processor can; what is not quantized is to be exact."""
KEEPS_INTEGERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool")
"""Operations between the rounding of values and the layer that takes them, which compute nothing."""


def write(job: Job, folder: Path) -> Mapping[str, State]:
    """Writes `model.xml` and `model.bin`."""
    import openvino

    with quiet():
        model = openvino.convert_model(capture(job.graph, job.batch))
        model.inputs[0].get_tensor().set_names({"images"})
        model.outputs[0].get_tensor().set_names({"probabilities"})
        _name_layers(model, job)
        if job.precision == "int8":
            model = _quantize(model, job)
        openvino.save_model(model, folder / FILE, compress_to_fp16=job.precision == "bf16")
    return {name: state for _, name, state in _walk(model, weighted(job.graph))} if job.precision == "int8" else {}


def _quantize(model: Any, job: Job) -> Any:
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    batches = job.batches(job.batch or 1)
    names = [*(node.get_friendly_name() for node, _, _ in _walk(model, job.keep_float)), *_edges(model)]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
        ignored_scope=nncf.IgnoredScope(names=names, validate=False),
    )


def _edges(model: Any) -> list[str]:
    """Normalisation before the first layer and calibration after the last: they keep their floating point."""
    nodes = model.get_ordered_ops()
    layers = [node.get_friendly_name() for node in _weighted_operations(model)]
    names = [node.get_friendly_name() for node in nodes]
    first, last = names.index(layers[0]), names.index(layers[-1])
    arithmetic = ("Add", "Multiply", "Subtract", "Divide", "ReduceSum")
    return [
        name
        for number, (name, node) in enumerate(zip(names, nodes, strict=True))
        if not first <= number <= last and node.get_type_name() in arithmetic and node.get_output_size()
    ]


def _name_layers(model: Any, job: Job) -> None:
    """Gives operations the names of the layers that their weights come from, which conversion forgets."""
    names = {_digest(module.weight.numpy()): name for name, module in weighted(job.graph).items()}
    for node in _weighted_operations(model):
        constant = _weight_of(node)
        name = None if constant is None else names.get(_digest(constant.get_data()))
        if name is not None:
            node.set_friendly_name(f"network.{name}/{node.get_friendly_name()}")


def _digest(weight: NDArray[np.float32]) -> bytes:
    return sha256(np.ascontiguousarray(weight).tobytes()).digest()


def _weighted_operations(model: Any) -> list[Any]:
    return [n for n in model.get_ordered_ops() if n.get_type_name() in ("Convolution", "GroupConvolution", "MatMul")]


def _has_attention(model: Any) -> bool:
    """Whether it multiplies what it computed by what it computed, as attention does."""
    if any(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ordered_ops()):
        return True
    return any(_weight_of(node) is None for node in _weighted_operations(model))


def open_model(folder: Path, precision: str) -> Run:
    """A compiled model on the CPU."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        model = openvino.Core().compile_model(folder / FILE, "CPU", settings)
    except RuntimeError as error:
        raise Unrunnable(f"{folder / FILE}: OpenVINO cannot load it: {first_line(error)}") from None
    request = model.create_infer_request()

    def run(images: Pixels) -> NDArray[np.float32]:
        try:
            found = request.infer([images], share_inputs=True)[0]
        except RuntimeError as error:
            raise Unrunnable(f"{len(images)} images at once: OpenVINO stopped: {first_line(error)}") from None
        probabilities: NDArray[np.float32] = found
        return probabilities

    return run


def _walk(model: Any, names: Iterable[str]) -> list[tuple[Any, str, State]]:
    """(operation, layer, what became of it) of every operation with the weight of one of these layers."""
    found: list[tuple[Any, str, State]] = []
    known = set(names)
    for node in _weighted_operations(model):
        name = node.get_friendly_name().split("/")[0].removeprefix("network.")
        weight = _weight_of(node)
        if name in known and weight is not None:
            is_small = weight.get_element_type().get_type_name() in ("i8", "u8")
            feeder = node.input_value(0).get_node()
            while feeder.get_type_name() in KEEPS_INTEGERS:
                feeder = feeder.input_value(0).get_node()
            computed = feeder.get_type_name() == "FakeQuantize"
            found.append((node, name, "int8" if is_small and computed else "int8 weights" if is_small else "float"))
    return found


def _weight_of(node: Any) -> Any:
    """The constant behind the second input of an operation, through what rescales and reshapes it; None without one."""
    source = node.input_value(1).get_node()
    passes = {"Convert", "Multiply", "Subtract", "Reshape", "Transpose", "FakeQuantize"}
    while source.get_type_name() in passes:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None
