"""A finished model on spoiled images: what a worse camera, another resize or stronger compression would cost."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.errors import RequestError
from linnaeus.core.files import write_json
from linnaeus.core.preprocess import Preprocess
from linnaeus.core.seed import generator
from linnaeus.data.corrupt import CORRUPTIONS, one_severity_each
from linnaeus.data.decode import Pixels, decode
from linnaeus.data.encode import encode_jpeg
from linnaeus.data.sources import Source
from linnaeus.deploy.bundle import Bundle
from linnaeus.metrics.robustness import Robustness, image_f1, summarize_versions

KIND, VERSION = "linnaeus-robustness", 1
SEED = 0
SMALL = 64  # pixels
LIMITS = {"small": 500, "photo": 120}
"""How many images are taken at most, by the size that the network sees: about thirty versions are made of each."""
QUALITIES = (95, 85, 70, 50, 30)
CROPS = (1.0, 0.9, 0.8, 0.65, 0.5)
FILTERS: dict[str, dict[str, object]] = {  # what users' own code resizes with
    "bilinear": {"mode": "bilinear", "antialias": True},
    "bicubic": {"mode": "bicubic", "antialias": True},
    "bilinear, not antialiased": {"mode": "bilinear", "antialias": False},
    "nearest": {"mode": "nearest-exact"},
}
_WORDS = {
    "resize": "another filter of the resize",
    "jpeg": "the file saved again as JPEG",
    "crop": "more or less of the picture seen",
}
_AT_ONCE = 8  # images in one forward pass: more only need more memory

Key = tuple[str, str, str]
"""(what was done, which corruption, the setting in words)."""
AS_IT_IS: Key = ("clean", "", "")
MIRRORED: Key = ("flip", "", "")


def measure_robustness(
    bundle: Bundle,
    source: Source,
    usable: NDArray[np.int64],
    *,
    images: str,
    display: Display,
    limit: int | None = None,
) -> Robustness:
    """Makes about thirty versions of each of some images, and lets the model answer for all of them.

    Args:
        bundle: on its device.
        source: its labels are positions in the classes of the model.
        usable: positions of the images to draw from.
        images: these images in words.
        limit: how many to draw at most; by default as `LIMITS` says.

    Raises:
        RequestError: if the network takes images of neither one nor three channels.
    """
    channels = bundle.preprocess.channels
    if channels not in (1, 3):
        raise RequestError(f"corruptions are of grey or colour images, and this network takes {channels} channels")
    is_small = bundle.preprocess.geometry.image_size <= SMALL
    limit = limit or LIMITS["small" if is_small else "photo"]
    drawn = np.sort(generator(SEED, "robustness").permutation(usable)[:limit])
    rows = []
    # Convolutions are faster so on most processors, and what is left is rounding.
    bundle.model.to(memory_format=torch.channels_last)
    with display.bar("spoiling images", len(drawn)) as advance:
        for turn, index in enumerate(drawn.tolist()):
            pixels = source.decode(source.read(index))
            versions = dict(make_versions(pixels, bundle.preprocess, turn=turn, index=index))
            target = np.asarray(source.labels.targets[index])
            rows.append(dict(zip(versions, _scores(bundle, list(versions.values()), target), strict=True)))
            advance(1)
    bundle.model.to(memory_format=torch.contiguous_format)
    measure = "accuracy" if bundle.task == "single" else "F1 of an image"
    chosen = f"{len(drawn):,} of the {len(usable):,} {images}" if len(drawn) < len(usable) else f"all {images}"
    return _summarize(rows, {"measure": measure, "images": chosen, "seed": SEED})


def make_versions(pixels: Pixels, preprocess: Preprocess, *, turn: int, index: int) -> Iterator[tuple[Key, Tensor]]:
    """What the network would see of an image: as it is, resized and cropped in other ways, and corrupted.

    Args:
        pixels: (H, W, 1 or 3) uint8, decoded and upright.
        turn: number of the image among those that are measured on, which decides on the severities.
        index: of the image in its set; corruptions are drawn by it.

    Yields:
        What was done, and (C, S, S) uint8. Corruptions are done to what the network sees.
    """
    geometry = preprocess.geometry
    clean = preprocess.fit(pixels)
    yield AS_IT_IS, clean
    yield MIRRORED, clean.flip(-1)
    for name, options in FILTERS.items():
        if name != geometry.interpolation:
            yield ("resize", "", name), preprocess.fit(_resize(pixels, geometry.resize, options))
    for quality in QUALITIES:
        yield ("jpeg", "", str(quality)), preprocess.fit(decode(encode_jpeg(pixels, quality)))
    for share in CROPS:
        other = Preprocess(replace(geometry, resize=round(geometry.image_size / share)))
        yield ("crop", "", f"{share:.0%}"), other.fit(pixels)
    image = clean.permute(1, 2, 0).numpy()  # (C, S, S) -> (S, S, C)
    for name, severity, spoiled in one_severity_each(image, turn, seed=SEED, index=index):
        yield ("corrupt", name, str(severity)), torch.from_numpy(spoiled).permute(2, 0, 1)


def write_robustness(run: Run, measured: Robustness) -> None:
    """Keeps it in the run's folder, as `evaluation/robustness.json`."""
    path = run.folder / "evaluation" / "robustness.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, KIND, VERSION, measured.to_json())


def _resize(pixels: Pixels, side: int, options: dict[str, object]) -> Pixels:
    """The shorter side to so many pixels, so that `Preprocess.fit` has only to crop."""
    scale = side / min(pixels.shape[:2])
    target = [max(side, int(length * scale)) for length in pixels.shape[:2]]
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (H, W, C) -> (1, C, H, W)
    resized = F.interpolate(planes, target, **options)  # type: ignore[arg-type]
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _scores(bundle: Bundle, versions: list[Tensor], target: NDArray[np.int64] | NDArray[np.uint8]) -> list[float]:
    """How well each version of one image is recognised, as `Values`; the mirrored one counts together with the clean.

    Args:
        versions: (C, S, S) uint8; the first two are the image as it is, and mirrored.
        target: one number, or (K,).
    """
    images = torch.stack(versions).contiguous(memory_format=torch.channels_last)
    probabilities = torch.cat([bundle.probabilities(part) for part in torch.split(images, _AT_ONCE)])
    probabilities[1] = (probabilities[0] + probabilities[1]) / 2
    if bundle.task == "single":
        return [float(said == target) for said in probabilities.argmax(1).tolist()]
    said = probabilities.double().numpy() >= np.array(bundle.about["thresholds"])
    return list(map(float, image_f1(said, np.broadcast_to(target.astype(bool), said.shape))))


def _summarize(rows: list[dict[Key, float]], about: dict[str, object]) -> Robustness:
    """From the score of every version, one dict an image."""
    corrupted: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    varied: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for (done, name, setting), score in row.items():
            if done == "corrupt":
                corrupted[name, CORRUPTIONS[name].words].append((int(setting), score))
            elif done in _WORDS:
                varied[done, _WORDS[done]][setting].append(score)
    pairs = {key: (np.array([s for s, _ in got]), np.array([v for _, v in got])) for key, got in corrupted.items()}
    arrays = {key: {each: np.array(scores) for each, scores in found.items()} for key, found in varied.items()}
    clean, mirrored = (np.array([row[key] for row in rows]) for key in (AS_IT_IS, MIRRORED))
    return summarize_versions(clean, mirrored, pairs, arrays, about=about)
