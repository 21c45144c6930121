"""Programs that go with an artefact: how it is used where there is no Linnaeus, each in a screenful.

They prepare images as the network was evaluated: the shorter side resized with an antialiased filter, the centre cut
out. Pillow's filter rounds differently from PyTorch's, by a grey level at most.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from linnaeus.deploy.formats.base import Takes

_PYTHON = Template('''"""Classifies images: python predict.py IMAGE...   It needs: pip install $packages"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

$imports

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "artefact.json").read_text(encoding="utf-8"))["model"]
$load


$prepare


def probabilities(images):
    """($shape, channels) uint8 -> (number, classes) float32, calibrated."""
    images = np.ascontiguousarray(images)
    $run


if __name__ == "__main__":
    for path in sys.argv[1:]:
        found = probabilities(prepare(path)[None])[0]
        $answer
''')

_ONE = """best = found.argmax()
        print(f"{path}\\t{ABOUT['classes'][best]}\\t{found[best]:.4f}")"""
_SEVERAL = """said = [name for name, p, t in zip(ABOUT["classes"], found, ABOUT["thresholds"]) if p >= t]
        print(f"{path}\\t{'|'.join(said)}")"""

_FIXED = """size = $batch
    parts = [images[start : start + size] for start in range(0, len(images), size)]
    padded = [np.concatenate([part, part[-1:].repeat(size - len(part), 0)]) for part in parts]
    return np.concatenate([run(part) for part in padded])[: len(images)]"""

_PREPARE = '''def prepare(path):
    """An image file as the network takes it: (side, side, channels) uint8."""
    side, short = (ABOUT["preprocess"][name] for name in ("image_size", "resize"))
    image = ImageOps.exif_transpose(Image.open(path)).convert($mode)
    scale = short / min(image.size)
    width, height = (max(short, int(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.$filter)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side))).reshape(side, side, -1)'''
_UPRIGHT = '''def prepare(path):
    """An image file, upright: (height, width, channels) uint8. It is resized and cropped inside."""
    image = ImageOps.exif_transpose(Image.open(path)).convert($mode)
    return np.asarray(image).reshape(image.height, image.width, -1)'''

# format -> (packages, imports, what loads it; it leaves a function `run`).
_LOADERS: dict[str, tuple[str, str, str]] = {
    "onnx": (
        "onnxruntime numpy pillow",
        "import onnxruntime",
        'SESSION = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])\n'
        'run = lambda images: SESSION.run(None, {"images": images})[0]  # noqa: E731',
    ),
    "openvino": (
        "openvino numpy pillow",
        "import openvino",
        'HINT = {"INFERENCE_PRECISION_HINT": "$hint"}\n'
        'MODEL = openvino.Core().compile_model(HERE / "model.xml", "CPU", HINT)\n'
        "run = lambda images: MODEL([images])[0]  # noqa: E731",
    ),
    "torch": (
        "torch numpy pillow",
        "import torch",
        'PROGRAM = torch.export.load(HERE / "model.pt2").module()\n'
        "run = lambda images: PROGRAM(torch.from_numpy(images)).numpy()  # noqa: E731",
    ),
    "aoti": (
        "torch numpy pillow",
        "import torch\nfrom torch._inductor import aoti_load_package",
        'PROGRAM = aoti_load_package(str(HERE / "model-$batch.pt2"))  # compiled for $batch at once\n'
        "run = lambda images: PROGRAM(torch.from_numpy(images)).numpy()  # noqa: E731",
    ),
    "executorch": (
        "executorch numpy pillow",
        "import torch\nfrom executorch.runtime import Runtime",
        'METHOD = Runtime.get().load_program(HERE / "model.pte").load_method("forward")  # 32 at once at most\n'
        "run = lambda images: METHOD.execute([torch.from_numpy(images)])[0].numpy()  # noqa: E731",
    ),
    "torchscript": (
        "torch numpy pillow",
        "import torch",
        'PROGRAM = torch.jit.load(str(HERE / "model.ts"))\n'
        "run = lambda images: PROGRAM(torch.from_numpy(images)).numpy()  # noqa: E731",
    ),
    "coreml": (
        "coremltools numpy pillow",
        "import coremltools",
        'MODEL = coremltools.models.MLModel(str(HERE / "model.mlpackage"))\n'
        'run = lambda images: MODEL.predict({"images": images.astype(np.float32)})["probabilities"]  # noqa: E731',
    ),
}

_JAVASCRIPT = Template("""// Classifies images: node predict.mjs IMAGE...   It needs: npm install onnxruntime-node sharp
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import ort from "onnxruntime-node";
import sharp from "sharp";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const about = JSON.parse(readFileSync(here("artefact.json"), "utf8")).model;
const { image_size: side, resize: short } = about.preprocess;
const session = await ort.InferenceSession.create(here("model.onnx"));
const half = (spare) => (spare % 2 ? 2 * Math.round(spare / 4) : spare / 2); // to the even number, as Python rounds

for (const path of process.argv.slice(2)) {
  const upright = await sharp(path).rotate().flatten({ background: "white" }).$colour
    .toBuffer({ resolveWithObject: true });
  const scale = short / Math.min(upright.info.width, upright.info.height);
  const [width, height] = [upright.info.width, upright.info.height].map((n) => Math.max(short, Math.floor(n * scale)));
  const pixels = await sharp(upright.data, { raw: upright.info })
    .resize(width, height, { fit: "fill", kernel: "$kernel" })
    .extract({ left: half(width - side), top: half(height - side), width: side, height: side })
    .raw().toBuffer();
  const images = new ort.Tensor("uint8", pixels, [1, side, side, $channels]);
  const found = (await session.run({ images })).probabilities.data;
$answer
}
""")
_JS_ONE = """  const best = found.indexOf(Math.max(...found));
  console.log(`${path}\\t${about.classes[best]}\\t${found[best].toFixed(4)}`);"""
_JS_SEVERAL = """  const said = about.classes.filter((_, k) => found[k] >= about.thresholds[k]);
  console.log(`${path}\\t${said.join("|")}`);"""

_CPP = Template("""// The probabilities of one prepared image, by ONNX Runtime. `linnaeus export` has not compiled this:
//     g++ -std=c++17 predict.cpp -I onnxruntime/include -L onnxruntime/lib -lonnxruntime -o predict
//     ./predict model.onnx < pixels      $side x $side x $channels bytes, row by row; classes are in artefact.json
#include <onnxruntime_cxx_api.h>
#include <cstdio>
#include <vector>

int main(int, char** argv) {
  std::vector<uint8_t> pixels($side * $side * $channels);
  if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) return 1;
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const int64_t shape[] = {1, $side, $side, $channels};
  auto images = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4);
  const char *in[] = {"images"}, *out[] = {"probabilities"};
  auto found = session.Run(Ort::RunOptions{}, in, &images, 1, out, 1);
  const float* probabilities = found[0].GetTensorData<float>();
  const size_t classes = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
  for (size_t k = 0; k < classes; ++k) std::printf("%.6f\\n", probabilities[k]);
}
""")


def write_snippets(
    folder: Path, form: str, precision: str, batch: int | None, about: Mapping[str, Any], takes: Takes = "prepared"
) -> None:
    """Writes the programs for an artefact.

    Args:
        form: the name of the format.
        batch: images at once, where it takes a fixed number.
        about: `model.json`.
        takes: of images of any size the program in Python alone is written.
    """
    preprocess, several = about["preprocess"], about["task"] == "multi"
    channels, is_cubic = len(preprocess["mean"]), preprocess["interpolation"] == "bicubic"
    packages, imports, load = _LOADERS[form]
    fixed = None if takes == "any" else batch or (1 if form in ("aoti", "coreml") else None)
    text = _PYTHON.substitute(
        packages=packages,
        imports=imports,
        load=Template(load).substitute(batch=fixed or 1, hint="bf16" if precision == "bf16" else "f32"),
        prepare=Template(_UPRIGHT if takes == "any" else _PREPARE).substitute(
            mode='"L"' if channels == 1 else '"RGB"', filter="BICUBIC" if is_cubic else "BILINEAR"
        ),
        shape="1, height, width" if takes == "any" else "number, side, side",
        run=Template(_FIXED).substitute(batch=fixed) if fixed else "return run(images)",
        answer=_SEVERAL if several else _ONE,
    )
    (folder / "predict.py").write_text(text, encoding="utf-8")
    if form == "onnx" and takes == "prepared":
        values = {"side": preprocess["image_size"], "channels": channels, "kernel": "cubic" if is_cubic else "linear"}
        colour = 'toColourspace("b-w").raw()' if channels == 1 else 'toColourspace("srgb").raw()'
        answer = _JS_SEVERAL if several else _JS_ONE
        if batch in (None, 1):
            script = _JAVASCRIPT.substitute(values, colour=colour, answer=answer)
            (folder / "predict.mjs").write_text(script, encoding="utf-8")
            (folder / "predict.cpp").write_text(_CPP.substitute(values), encoding="utf-8")
