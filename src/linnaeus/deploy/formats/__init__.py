"""The formats that a classifier can be exported to, each in a file of its own."""

from collections.abc import Iterable

from linnaeus.core.errors import RequestError
from linnaeus.deploy.formats import aoti, coreml, executorch, exported, onnx, openvino, torchscript
from linnaeus.deploy.formats.base import Format, Takes

_F32 = "32-bit floating point, exact"
_STATIC = "8-bit integers, with ranges measured on training images"

FORMATS: dict[str, Format] = {
    "torch": Format(
        {"f32": _F32, "bf16": "bfloat16"},
        exported.FILE,
        *((), (), ()),
        "",
        exported.write,
        exported.open_model,
        note="the operations alone, for PyTorch",
        widen=exported.widen,
    ),
    "aoti": Format(
        {"f32": _F32, "bf16": "bfloat16", "int8": _STATIC},
        "model-1.pt2",
        *((), (), ("torchao",)),
        "quant",
        aoti.write,
        aoti.open_model,
        note="native code for processors like this one; takes a C++ compiler to write and PyTorch to run",
    ),
    "onnx": Format(
        {
            "f32": _F32,
            "f16": "half precision, for GPUs and browsers",
            "int8": _STATIC,
            "int8-dynamic": "8-bit linear layers, with ranges measured as they come",
        },
        onnx.FILE,
        *(("onnxruntime",), ("onnx", "onnxscript"), ()),
        "onnx",
        onnx.write,
        onnx.open_model,
        note="for ONNX Runtime: servers, browsers, phones",
        widen=onnx.widen,
    ),
    "openvino": Format(
        {"f32": _F32, "bf16": "bfloat16, stored in half precision", "int8": _STATIC},
        openvino.FILE,
        *(("openvino",), (), ("nncf",)),
        "openvino",
        openvino.write,
        openvino.open_model,
        note="for Intel's and AMD's processors",
    ),
    "executorch": Format(
        {"f32": _F32, "int8": _STATIC},
        executorch.FILE,
        *(("executorch",), (), ("torchao",)),
        "executorch",
        executorch.write,
        executorch.open_model,
        note="one file for phones and small devices",
    ),
    "coreml": Format(
        {"f16": "half precision", "f32": _F32},
        coreml.FILE,
        *(("coremltools",), (), ()),
        "coreml",
        coreml.write,
        coreml.open_model,
        note="for Apple's devices; converted anywhere, scored on macOS alone",
    ),
    "torchscript": Format(
        {"f32": _F32, "tutorial-int8": "the tutorial's dynamic quantization: linear layers alone"},
        torchscript.FILE,
        *((), (), ()),
        "",
        torchscript.write,
        torchscript.open_model,
        note="deprecated by PyTorch; for programs that still load it",
    ),
}
"""What `--to` takes before the colon; after it stands one of the precisions, the first where none is named."""

LITERT = (
    "litert: its converter needs an older typing-extensions than Linnaeus does, so both cannot be installed together. "
    "Export torch:f32, and convert model.pt2 in an environment of its own that has litert-torch"
)


def parse_target(word: str) -> tuple[str, str]:
    """`onnx:int8` -> ("onnx", "int8"); `onnx` -> ("onnx", "f32").

    Raises:
        RequestError: if there is no such format or precision.
    """
    name, _, precision = word.partition(":")
    if name == "litert":
        raise RequestError(LITERT)
    if name not in FORMATS:
        raise RequestError(f"--to {word}: there is no format '{name}'; there are {', '.join(FORMATS)}, or all")
    known = FORMATS[name].precisions
    precision = precision or next(iter(known))
    if precision not in known:
        raise RequestError(f"--to {word}: {name} has no precision '{precision}'; it has {', '.join(known)}")
    return name, precision


def check_takes(takes: Takes, targets: Iterable[tuple[str, str]], batch: int | None) -> None:
    """Whether all formats of some (format, precision) pairs can take such images.

    Raises:
        RequestError: if one cannot, or more than one image of any size is asked for at once.
    """
    if takes == "prepared":
        return
    able = [name for name, form in FORMATS.items() if form.widen]
    if unable := sorted({name for name, _ in targets if name not in able}):
        raise RequestError(f"--input any: {', '.join(unable)} cannot resize images; expected of {', '.join(able)}")
    if batch not in (None, 1):
        raise RequestError(f"--input any --batch {batch}: sizes differ, so it is one image at once; leave out --batch")
