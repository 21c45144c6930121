"""Predictions for a folder of photos, decoding included, beside the loop that everybody writes first.

    make bench BENCH=predict                       # EfficientNet-Lite0 with its real weights, 1,000 photos

Sides, in turns, each round in another order, on the photos of LINNAEUS_TEST_DATA/imagenet-sample-1000:

    loop        Pillow; torchvision's Resize, CenterCrop, ToTensor, Normalize; one image at a time, eager PyTorch
    network     `Bundle.predict`, as `linnaeus predict RUN/model`
    onnx:int8   `Artefact.predict`, as `linnaeus predict RUN/exports/onnx-int8`; and so on

All have the same network. Images a second are medians over the rounds, ratios medians of the ratios within a round;
labels are compared with those of the loop. The last line of stdout is one JSON object. Run it on a quiet machine.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).parent))
from deploy import CALIBRATION, make_bundle, photos
from linnaeus.core.memory import keep_freed_memory
from linnaeus.deploy.artefact import Artefact, open_run
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.formats import FORMATS, parse_target
from linnaeus.deploy.formats.base import Job
from linnaeus.deploy.graph import Graph

Side = Callable[[list[Path]], list[str]]
NETWORK = "efficientnet_lite0"


def main() -> None:
    """Prints a table, and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", default=["onnx:f32", "onnx:int8", "openvino:bf16", "openvino:int8"])
    given = parser.parse_args()
    keep_freed_memory()  # as `linnaeus predict` does; the loop gains by it too
    paths = sorted((Path(os.environ.get("LINNAEUS_TEST_DATA", "")) / "imagenet-sample-1000").glob("*/*"))
    bundle = make_bundle(NETWORK)
    with tempfile.TemporaryDirectory() as scratch:
        sides: dict[str, Side] = {"loop": loop(bundle), "network": lambda paths: labels(bundle, paths)}
        calibration = photos(bundle)[0][:CALIBRATION]
        for target in given.targets:
            sides[target] = artefact(bundle, target, Path(scratch) / target.replace(":", "-"), calibration)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        said: dict[str, list[str]] = {}
        for side in sides.values():
            side(paths[:64])
        for number in range(given.rounds):
            for name in list(sides)[:: -1 if number % 2 else 1]:
                began = time.perf_counter()
                said[name] = sides[name](paths)
                rates[name].append(len(paths) / (time.perf_counter() - began))
    result = {}
    for name, own in rates.items():
        ratio = median(mine / plain for mine, plain in zip(own, rates["loop"], strict=True))
        same = float(np.mean([a == b for a, b in zip(said[name], said["loop"], strict=True)]))
        result[name] = {"images_per_second": median(own), "times_loop": ratio, "same_labels": same}
        print(f"{name:<16} {median(own):>8.1f} images/s {ratio:>7.2f}x   same labels {same:.1%}")
    print(json.dumps({"photos": len(paths), "rounds": given.rounds, "sides": result, "torch": torch.__version__}))


def loop(bundle: Bundle) -> Side:
    """The obvious way."""
    geometry = bundle.preprocess.geometry
    prepare = transforms.Compose(
        [
            transforms.Resize(geometry.resize, transforms.InterpolationMode(geometry.interpolation)),
            transforms.CenterCrop(geometry.image_size),
            transforms.ToTensor(),
            transforms.Normalize(geometry.mean, geometry.std),
        ]
    )

    @torch.no_grad()
    def run(paths: list[Path]) -> list[str]:
        found = []
        for path in paths:
            logits = bundle.model(prepare(Image.open(path).convert("RGB"))[None])
            found.append(bundle.classes[int(logits.argmax())])
        return found

    return run


def labels(classifier: Bundle | Artefact, paths: list[Path]) -> list[str]:
    """What it says of each image."""
    return [prediction.label for prediction in classifier.predict(paths, top=3)]


def artefact(bundle: Bundle, target: str, folder: Path, calibration: np.ndarray) -> Side:
    """An exported classifier, as `load_artefact` gives it."""
    form, precision = parse_target(target)
    folder.mkdir()
    FORMATS[form].write(Job(Graph(bundle), precision, None, calibration), folder)
    model = {**bundle.about, "preprocess": bundle.preprocess.to_json()}
    loaded = Artefact(
        folder, {"name": target, "precision": precision, "model": model}, open_run(folder, form, precision, None)
    )
    return lambda paths: labels(loaded, paths)


if __name__ == "__main__":
    main()
