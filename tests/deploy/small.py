"""A small classifier with weights at random, images for it, and artefacts of it: what the tests of export share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from linnaeus.core.preprocess import Geometry, Preprocess
from linnaeus.deploy.artefact import GOLDEN, open_run, write_about
from linnaeus.deploy.bundle import Bundle
from linnaeus.deploy.formats import FORMATS
from linnaeus.deploy.formats.base import Job, Takes
from linnaeus.deploy.gate import Held
from linnaeus.deploy.graph import Graph
from linnaeus.deploy.snippets import write_snippets
from linnaeus.models import create_model

SIZE = 28
VECTOR = {"method": "vector", "temperature": 1.0, "scale": [1.0, 2.0, 4.0], "bias": [0.3, 0.0, -0.3]}
SHARP = {"method": "temperature", "temperature": 0.5}


def bundle(
    *, task: str = "single", channels: int = 3, calibration: dict[str, Any] = SHARP, tta: str = "none"
) -> Bundle:
    """A LeNet whose batch normalisation has seen images, so that folding does something, and whose answers differ."""
    torch.manual_seed(0)
    model = create_model("lenet5_modern", num_classes=3, in_channels=channels, image_size=SIZE)
    preprocess = Preprocess(Geometry(SIZE, SIZE, (0.5, 0.4, 0.3)[:channels], (0.25, 0.3, 0.35)[:channels]))
    seen = preprocess(torch.from_numpy(photos(64, channels)).permute(0, 3, 1, 2))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(seen)
        model.head.bias -= model.eval()(seen).mean(0)
    architecture = {"name": "lenet5_modern", "num_classes": 3, "in_channels": channels, "image_size": SIZE}
    about = {
        "architecture": {**architecture, "options": {}},
        "task": task,
        "classes": ["ant", "bee", "wasp"],
        "preprocess": preprocess.to_json(),
        "calibration": calibration,
        "tta": {"views": tta},
        **({"thresholds": [0.4, 0.5, 0.6]} if task == "multi" else {}),
    }
    return Bundle(model, about, preprocess)


def photos(count: int, channels: int = 3, seed: int = 1) -> NDArray[np.uint8]:
    """(N, S, S, C) uint8: smooth patches of colour, each image of a brightness and contrast of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 7, 7, channels)) * rng.uniform(0.2, 1, (count, 1, 1, 1))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def probabilities(of: Bundle, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S, S, C) uint8 -> (N, K), the network's own."""
    return of.probabilities(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()


def held(of: Bundle, count: int = 64) -> Held:
    """Images that the network answers rightly, all of them."""
    images = photos(count, of.preprocess.channels, seed=2)
    expected = probabilities(of, images)
    if of.task == "multi":
        thresholds = tuple(of.about["thresholds"])
        return Held("images", images, expected.astype(np.float64) >= np.array(thresholds), expected, thresholds)
    return Held("images", images, np.arange(3) == expected.argmax(1)[:, None], expected, None)


def needs(name: str, precision: str) -> None:
    """Skips where a package that a format takes is not installed."""
    if missing := FORMATS[name].missing(precision):
        pytest.skip(f"{name}:{precision} needs {', '.join(missing)}: pip install 'linnaeus[{FORMATS[name].extra}]'")


def job(of: Bundle, precision: str, batch: int | None = None) -> Job:
    """With training images, where they are needed."""
    return Job(Graph(of), precision, batch, photos(33, of.preprocess.channels))


def deliver(
    folder: Path,
    of: Bundle,
    name: str = "onnx",
    precision: str = "f32",
    batch: int | None = None,
    takes: Takes = "prepared",
) -> Path:
    """An artefact as it is delivered: network, programs, golden samples, `artefact.json`."""
    needs(name, precision)
    folder.mkdir(parents=True)
    if takes == "any":
        batch = 1
    FORMATS[name].write(job(of, precision, batch), folder)
    golden = list(photos(GOLDEN, of.preprocess.channels, seed=3))
    if takes == "any" and (widen := FORMATS[name].widen):
        widen(folder, of.preprocess)
        golden = [image[number:, : 28 - 4 * number] for number, image in enumerate(golden)]
    write_snippets(folder, name, precision, batch, of.about, takes)
    content = {
        "name": f"{name}:{precision}",
        "format_name": name,
        "precision": precision,
        "batch": batch,
        "takes": takes,
        "model": dict(of.about),
    }
    run = open_run(folder, name, precision, batch)
    said = np.concatenate([run(np.ascontiguousarray(image[None])) for image in golden])
    write_about(folder, content, golden, said)
    return folder
