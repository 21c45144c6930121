"""Exported artefacts beside eager PyTorch and beside the same runtimes called by hand: speed, size, coverage, accuracy.

    make bench BENCH=deploy                                                # EfficientNet-Lite0 with its real weights
    make bench BENCH=deploy ARGS="--networks resnet50 vit_small convnext_tiny"   # weights at random: speed alone

For each network: every target is written as `linnaeus export` writes it (with 125 photos of LINNAEUS_TEST_DATA/
imagenet-sample-1000 to calibrate, the others to judge, a seventh of these to choose layers by), and what a person would
write by hand for ONNX Runtime and OpenVINO, on float32 images that are normalised before. All ways are called in turns
(`linnaeus.deploy.benchmark`): 7 rounds, medians, ratios within a round. The photos resemble those that the weights were
trained on, so that accuracies read high: look at the differences, which come with their paired 95% intervals. Without
the real weights agreement is that of a network at random, a worst case, and no accuracy. The last line of stdout is one
JSON object. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.data.decode import load_image
from linnaeus.deploy.artefact import open_run
from linnaeus.deploy.benchmark import Answer, time_in_turns
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.coverage import count_coverage, sensitivity, trained_layers
from linnaeus.deploy.formats import FORMATS, parse_target
from linnaeus.deploy.formats.base import Job
from linnaeus.deploy.gate import Held, Limits, judge
from linnaeus.deploy.graph import Graph
from linnaeus.deploy.quantize import write_within
from linnaeus.models import create_model

SIZES = (1, 16)
CALIBRATION, CHOOSING = 125, 125
TARGETS = (
    *("torch:bf16", "torchscript:f32", "torchscript:tutorial-int8", "aoti:f32", "aoti:bf16", "aoti:int8"),
    *("onnx:f32", "onnx:int8", "openvino:f32", "openvino:bf16", "openvino:int8", "executorch:f32", "executorch:int8"),
)
REAL = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def main() -> None:
    """Prints a table a network, and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--max-drop", type=float, default=1.0)
    given = parser.parse_args()
    found = {name: measure(name, given.targets, Limits(max_drop=given.max_drop)) for name in given.networks}
    versions = {name: version(name) for name in ("torch", "onnxruntime", "openvino", "nncf", "torchao", "executorch")}
    print(json.dumps({"networks": found, "machine": platform.machine(), "cores": os.cpu_count(), **versions}))


def measure(name: str, targets: list[str], limits: Limits) -> dict[str, Any]:
    """All targets of one network, beside each other."""
    torch.manual_seed(0)
    bundle = make_bundle(name)
    images, truths = photos(bundle)
    if name not in REAL:
        settle(bundle, images[:64])
    rest = slice(CALIBRATION, None)
    held = hold(bundle, images[rest], truths[rest])
    choosing = Held("", *(part[::7] for part in (held.images, held.truths, held.expected)), None)
    graph, rows = Graph(bundle), {}
    layers = trained_layers(graph)
    answers: dict[str, Answer] = {"eager": eager(bundle)}
    with tempfile.TemporaryDirectory() as scratch:
        ranking: list[str] = []
        for target in targets:
            folder = Path(scratch) / target.replace(":", "-")
            folder.mkdir()
            form, precision = parse_target(target)
            job = Job(graph, precision, None, images[:CALIBRATION])
            kept: tuple[str, ...] = ()
            if precision == "int8" and name in REAL:  # at random, all layers bear it badly

                def worst() -> list[str]:
                    if not ranking:
                        ranking.extend(sensitivity(graph, torch.from_numpy(images[:16])))
                    return ranking

                done = write_within(FORMATS[form], job, folder, held=choosing, limits=limits, worst=worst)
                states, kept = done.states, done.tries[-1].kept
            else:
                states = FORMATS[form].write(job, folder)
            run = open_run(folder, form, precision, None)
            verdict = judge(run, held, precision=precision, limits=limits)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            rows[target] = {"bytes": size, "verdict": verdict.to_json(), "kept": list(kept)}
            rows[target]["coverage"] = count_coverage(layers, states).to_json()
            answers[target] = artefact(run)
            print(f"{name} {target}: {verdict.outcome} {'; '.join(verdict.reasons)}", flush=True)
        answers |= by_hand(bundle, Path(scratch), images[:CALIBRATION])
        noise = torch.from_numpy(images[: SIZES[-1]]).permute(0, 3, 1, 2).contiguous()
        timings = time_in_turns(answers, noise, SIZES, advance=lambda _: None)
    for way, timing in timings.items():
        row = rows.setdefault(way, {})
        row["milliseconds"] = {size: 1000 * size / timing.throughput(size) for size in SIZES}
        row["times_eager"] = {size: median(timing.speedups(timings["eager"], size)) for size in SIZES}
        hand = f"{way} by hand"
        if hand in timings:
            row["times_by_hand"] = {size: median(timing.speedups(timings[hand], size)) for size in SIZES}
    table(name, rows, len(held))
    return rows


def make_bundle(name: str) -> Bundle:
    """A network for the 1,000 classes of the sample."""
    real = name in REAL
    model = create_model(name, num_classes=1000, pretrained=real)
    mean, std = ((0.5,) * 3, (0.5,) * 3) if real else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    side = model.image_size
    preprocess = Preprocess(Geometry(side, round(side / 0.875), mean, std, "bicubic" if real else "bilinear"))
    about = {
        "task": "single",
        "classes": [str(k) for k in range(model.num_classes)],
        "calibration": {"method": "none", "temperature": 1.0},
    }
    return Bundle(model, about, preprocess)


def photos(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """(N, S, S, 3) uint8 in an order that mixes the classes, and (N, K) bool."""
    folder = Path(os.environ.get("LINNAEUS_TEST_DATA", "")) / "imagenet-sample-1000"
    if not folder.is_dir():
        raise SystemExit("this needs LINNAEUS_TEST_DATA/imagenet-sample-1000: run `make test-data`")
    paths = sorted(folder.glob("*/*"))
    order = np.random.default_rng(0).permutation(len(paths))
    images = np.stack([bundle.preprocess.fit(load_image(paths[i])).permute(1, 2, 0).numpy() for i in order])
    labels = np.array([sorted({path.parent.name for path in paths}).index(paths[i].parent.name) for i in order])
    return np.ascontiguousarray(images), np.arange(len(bundle.classes)) == labels[:, None]


@torch.no_grad()
def settle(bundle: Bundle, images: np.ndarray) -> None:
    """Gives a network at random statistics of real images, and logits whose largest varies."""
    prepared = bundle.preprocess(torch.from_numpy(images).permute(0, 3, 1, 2))
    for module in bundle.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
            module.train()
    bundle.model(prepared)
    logits = bundle.model.eval()(prepared)
    head = [m for m in bundle.model.head.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.bias -= logits.mean(0)
    scale = 3 / float((logits - logits.mean(0)).std())
    head.weight *= scale
    head.bias *= scale


def hold(bundle: Bundle, images: np.ndarray, truths: np.ndarray) -> Held:
    """With what the network says."""
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(16)
    expected = torch.cat([bundle.probabilities(part.contiguous()) for part in parts]).numpy()
    return Held("photos", images, truths, expected, None)


def eager(bundle: Bundle) -> Answer:
    """The network as it was trained."""
    return bundle.probabilities


def artefact(run: Callable[[np.ndarray], np.ndarray]) -> Answer:
    """An artefact on images as a decoder gives them, pixel by pixel."""
    kept: dict[int, np.ndarray] = {}

    def answer(images: Tensor) -> Tensor:
        if len(images) not in kept:
            kept[len(images)] = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        return torch.from_numpy(np.asarray(run(kept[len(images)])))

    return answer


def by_hand(bundle: Bundle, folder: Path, calibration: np.ndarray) -> dict[str, Answer]:
    """The best plain calls for two runtimes: the network alone on float32 images that are normalised already."""
    import onnxruntime
    import openvino
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    def normalised(images: np.ndarray) -> np.ndarray:
        return bundle.preprocess(torch.from_numpy(images).permute(0, 3, 1, 2)).contiguous().numpy()

    plain, ready, small = (folder / f"hand-{part}.onnx" for part in ("plain", "ready", "int8"))
    example = torch.from_numpy(normalised(calibration[:4]))
    shapes = ({0: "batch"},)
    names = {"input_names": ["input"], "output_names": ["logits"]}
    torch.onnx.export(bundle.model, (example,), plain, dynamo=True, dynamic_shapes=shapes, external_data=False, **names)

    class Reader(CalibrationDataReader):
        """Batches of calibration images."""

        def __init__(self) -> None:
            self.batches = iter(np.split(calibration[:120], 15))

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next."""
            batch = next(self.batches, None)
            return None if batch is None else {"input": normalised(batch)}

    quant_pre_process(plain, ready, skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(ready, small, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    answers = {}
    for target, path in (("onnx:f32", plain), ("onnx:int8", small)):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers[f"{target} by hand"] = _prepared(
            lambda x, session=session: session.run(None, {"input": x})[0], normalised
        )
    answers |= openvino_by_hand(openvino, plain, calibration, normalised)
    return answers


def openvino_by_hand(openvino: Any, plain: Path, calibration: np.ndarray, normalised: Any) -> dict[str, Answer]:
    """OpenVINO in each precision."""
    import nncf

    model = openvino.convert_model(plain)
    attention = any(n.get_type_name() in ("Softmax", "ScaledDotProductAttention") for n in model.get_ordered_ops()[:-9])
    kind = nncf.ModelType.TRANSFORMER if attention else None
    data = nncf.Dataset([normalised(image[None]) for image in calibration])
    small = nncf.quantize(openvino.convert_model(plain), data, subset_size=len(calibration), model_type=kind)
    answers = {}
    for precision, source, hint in (("f32", model, "f32"), ("bf16", model, "bf16"), ("int8", small, "f32")):
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}
        compiled = openvino.Core().compile_model(source, "CPU", settings)
        answers[f"openvino:{precision} by hand"] = _prepared(
            lambda x, compiled=compiled: compiled([x], share_inputs=True)[0], normalised
        )
    return answers


def _prepared(run: Callable[[np.ndarray], np.ndarray], normalised: Any) -> Answer:
    kept: dict[int, np.ndarray] = {}

    def answer(images: Tensor) -> Tensor:
        if len(images) not in kept:
            kept[len(images)] = normalised(images.permute(0, 2, 3, 1).numpy())
        return torch.from_numpy(np.asarray(run(kept[len(images)])))

    return answer


def table(name: str, rows: dict[str, Any], number: int) -> None:
    """Prints it."""
    print(f"\n{name}, judged on {number} photos")
    heads = (
        "way",
        "MB",
        "1: ms",
        "x eager",
        "x hand",
        "16: ms",
        "x eager",
        "x hand",
        "change, points",
        "agrees",
        "int8",
    )
    print(("{:<26}" + "{:>9}" * 7 + "{:>22}{:>8}{:>6}").format(*heads))
    for way, row in rows.items():
        cells = [f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else "-"]
        for size in SIZES:
            cells += [f"{row['milliseconds'][size]:.2f}", f"{row['times_eager'][size]:.2f}"]
            cells += [f"{row['times_by_hand'][size]:.2f}" if "times_by_hand" in row else "-"]
        score = row.get("verdict", {}).get("score")
        last = ["-", "-", "-"]
        if score:
            change = score["change"]
            ends = f"{100 * change['low']:.1f} to {100 * change['high']:.1f}"
            last = [f"{100 * change['value']:+.2f} ({ends})", f"{score['agreement']['value']:.1%}"]
            last += [f"{row['coverage']['macs']:.0%}"]
        print(("{:<26}" + "{:>9}" * 7 + "{:>22}{:>8}{:>6}").format(way, *cells, *last))


if __name__ == "__main__":
    main()
