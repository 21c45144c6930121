"""The parts of a report that need the images or the network: pictures, plain baselines, the learning curve, speed."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.app.build import make_model
from linnaeus.app.curve import MOST, MOST_JUDGED, learning_curve, num_fits, plain_features, some
from linnaeus.app.explain import choose_methods, map_of
from linnaeus.app.gather import Kept
from linnaeus.app.images import evaluation_loader
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.core.device import at_once, describe, synchronize
from linnaeus.core.errors import EnvironmentFault, RequestError
from linnaeus.core.fold import folded
from linnaeus.data.decode import UnreadableImage
from linnaeus.data.loader import watched_workers
from linnaeus.deploy.bundle import Bundle
from linnaeus.engine.ridge import fit_ridge
from linnaeus.metrics.compare import compare_answers
from linnaeus.metrics.intervals import wilson
from linnaeus.models import start_from
from linnaeus.report.overlay import overlay
from linnaeus.report.page import data_uri
from linnaeus.report.record import Baseline, Record, Shown, Speed

BATCH, FEW = 32, 8
FORWARDS = 1500
"""Training images that the network which a run began with is shown at most."""

Positions = Mapping[str, int]
"""Name of an image, as in the index -> its position in the source."""


def with_pictures(record: Record, prepared: Prepared, bundle: Bundle, positions: Positions) -> Record:
    """The mistakes as the network sees them, with what it looked at, and the suspects as they are."""
    try:
        (method, *_) = choose_methods(bundle.model, ["auto"])
        mistakes = [_explained(each, prepared, bundle, positions, method) for each in record.mistakes]
        missing = record.missing
    except RequestError as reason:
        mistakes = [_explained(each, prepared, bundle, positions, "") for each in record.mistakes]
        missing = {**record.missing, "overlays": f"There are no maps of what it looked at: {reason}."}
    suspects = record.suspects and [_plain(each, prepared, positions) for each in record.suspects]
    return replace(record, mistakes=mistakes, suspects=suspects, missing=missing)


def _explained(shown: Shown, prepared: Prepared, bundle: Bundle, positions: Positions, method: str) -> Shown:
    pixels = _pixels(shown, prepared, positions)
    if pixels is None:
        return shown
    seen = bundle.preprocess.fit(pixels)
    image = np.ascontiguousarray(seen.permute(1, 2, 0).numpy())  # (C, S, S) -> (S, S, C)
    image = image if image.shape[2] in (1, 3) else image[:, :, :1]
    shown = replace(shown, picture=data_uri(image))
    if not method:
        return shown
    images = bundle.preprocess(seen[None].to(bundle.device))
    chart = map_of(bundle, method, images, bundle.classes.index(shown.said))
    return replace(shown, overlay=data_uri(overlay(image, chart)))


def _plain(shown: Shown, prepared: Prepared, positions: Positions) -> Shown:
    pixels = _pixels(shown, prepared, positions)
    return shown if pixels is None else replace(shown, picture=data_uri(pixels))


def _pixels(shown: Shown, prepared: Prepared, positions: Positions) -> NDArray[np.uint8] | None:
    if shown.name not in positions:
        return None
    try:
        return prepared.source.decode(prepared.source.read(positions[shown.name]))
    except (UnreadableImage, OSError):
        return None


def with_baselines(record: Record, kept: Kept, prepared: Prepared) -> Record:
    """What always saying the most frequent class is worth, and a linear model that sees little."""
    if record.task == "multi":
        return record
    truth, right = kept.test.truths.argmax(1), kept.right()
    train = prepared.split.indices("train")
    most = int(prepared.source.labels.counts(train).argmax())
    name = f"always saying '{record.classes[most]}', the most frequent class in training,"
    features, truths = _plain_examples(prepared, record, some(train, MOST, seed=0))
    said = fit_ridge(features, truths).scores(plain_features(prepared.audit, kept.test.positions)).argmax(1)
    plain = "a linear model that sees 16 by 16 grey values and 4 by 4 colours"
    baselines = [_baseline(name, truth == most, right), _baseline(plain, said == truth, right)]
    return replace(record, baselines=sorted(baselines, key=lambda each: each.accuracy.value))


def _baseline(name: str, own: NDArray[np.bool_], right: NDArray[np.bool_]) -> Baseline:
    return Baseline(name, wilson(int(own.sum()), len(own)), compare_answers(own, right).difference)


def _plain_examples(
    prepared: Prepared, record: Record, positions: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    targets = prepared.source.labels.targets[positions]
    return plain_features(prepared.audit, positions), np.arange(len(record.classes)) == targets[:, None]


def with_learning(record: Record, kept: Kept, prepared: Prepared, bundle: Bundle, *, display: Display) -> Record:
    """The learning curve of a linear head: on what the network saw before it learnt, or on plain features.

    The features of the trained network would not do: it has learnt from the very images, so that few of them, and a
    head, would be enough to know them all.
    """
    if record.task == "multi":
        reason = "It was not measured: that needs exactly one class an image, and here images may have several."
        return replace(record, missing={**record.missing, "learning": reason})
    config = kept.run.read_config()
    train = some(prepared.split.indices("train"), FORWARDS if config.model.weights else MOST, seed=0)
    rows = some(np.arange(len(kept.test)), MOST_JUDGED, seed=1)
    positions = kept.test.positions[rows]
    if config.model.weights:
        try:
            found = _first_features(kept, prepared, bundle, np.concatenate([train, positions]), display)
        except (RequestError, EnvironmentFault) as reason:
            gone = f"It was not measured: the weights that the run began with cannot be read ({reason})."
            return replace(record, missing={**record.missing, "learning": gone})
        what = f"what {record.model} saw with the weights it began with"
    else:
        found = plain_features(prepared.audit, np.concatenate([train, positions]))
        what = "16 by 16 grey values and 4 by 4 colours"
    targets = prepared.source.labels.targets[train]
    own = (found[: len(train)], np.arange(len(record.classes)) == targets[:, None])
    with display.bar("learning curve", num_fits(len(train), len(record.classes)), unit="fits") as advance:
        curve = learning_curve(
            own,
            (found[len(train) :], kept.test.truths[rows]),
            record.classes,
            features=what,
            is_own=bool(config.model.weights),
            progress=advance,
        )
    return replace(record, learning=curve)


def _first_features(
    kept: Kept, prepared: Prepared, bundle: Bundle, positions: NDArray[np.int64], display: Display
) -> NDArray[np.float64]:
    """(N, D) features of the network with the weights that it began with."""
    config = kept.run.read_config()
    assert config.model.weights
    model = make_model(config, len(bundle.classes))
    start_from(model, config.model.name, config.model.weights)
    loader = evaluation_loader(
        prepared.source, positions, bundle.preprocess, config.replace(train={"batch_size": BATCH})
    )
    features = np.zeros((len(positions), 0))
    place = {position: row for row, position in enumerate(positions.tolist())}
    few = next(iter(loader.epoch(0))).images[:FEW].to(bundle.device)
    model = folded(model.to(bundle.device), bundle.preprocess(few)).to(memory_format=torch.channels_last)
    with watched_workers(), torch.inference_mode(), display.bar("features", len(positions)) as advance:
        for batch in loader.epoch(0):
            images = batch.images.to(bundle.device)
            parts = [model.features(bundle.preprocess(part)) for part in torch.split(images, at_once(images))]
            found = torch.cat(parts).float().cpu().numpy()
            if not features.size:
                features = np.zeros((len(positions), found.shape[1]))
            for row, index, valid in zip(found, batch.index.tolist(), batch.valid.tolist(), strict=True):
                if valid:
                    features[place[index]] = row
            advance(int(batch.valid.sum()))
    return features


def with_speed(record: Record, bundle: Bundle, folder: Path, *, seconds: float) -> Record:
    """How long one image and many take on this machine, measured for `seconds` each, or little more."""
    size, channels = bundle.preprocess.geometry.image_size, bundle.preprocess.channels
    images = torch.randint(0, 256, (BATCH, channels, size, size), dtype=torch.uint8)
    alone = _times(bundle, images[:1], seconds)
    together = _times(bundle, images, seconds)
    speed = Speed(
        milliseconds=1000 * float(np.median(alone)),
        slow_milliseconds=1000 * float(np.quantile(alone, 0.95)),
        images_per_second=BATCH / float(np.median(together)),
        batch=BATCH,
        device=f"{describe(bundle.device)}, torch {torch.__version__}",
        parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        bytes=(folder / "model.safetensors").stat().st_size,
    )
    return replace(record, speed=speed)


def _times(bundle: Bundle, images: torch.Tensor, seconds: float) -> list[float]:
    """Seconds of each pass after the first, at least 5 and at most 50."""
    times: list[float] = []
    bundle.probabilities(images)
    while len(times) < 5 or (sum(times) < seconds and len(times) < 50):
        began = time.perf_counter()
        bundle.probabilities(images)
        synchronize(bundle.device)
        times.append(time.perf_counter() - began)
    return times
