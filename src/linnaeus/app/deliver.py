"""The end of a run: the best weights become a bundle, judged once on the test images."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnaeus.app.config import Config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.suspects import close_diagnosis
from linnaeus.core.batch import Loader
from linnaeus.core.classifier import Classifier
from linnaeus.data.loader import watched_workers
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.engine.evaluate import Filled, evaluate
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.multilabel import MultiScores, summarize_labels
from linnaeus.metrics.outputs import Judged, Outputs
from linnaeus.metrics.scores import Scores, confusion_array, summarize
from linnaeus.metrics.thresholds import DEFAULT, best_thresholds
from linnaeus.report.tables import headline_table, model_card


def deliver(
    run: Run,
    config: Config,
    prepared: Prepared,
    images: Images,
    model: Classifier,
    *,
    device: torch.device,
    display: Display,
) -> Bundle:
    """Evaluates the model on test, in float32 as it will be used, and writes it with its scores.

    Where images have several classes, the threshold of each is chosen on val before.
    """
    about = {**_about(config, prepared, images, model), "licence": _licence(run)}
    bundle = Bundle(model.to(memory_format=torch.contiguous_format), about, images.preprocess)
    if bundle.task == "multi":
        judged = judge(bundle, images.evaluation("val"), device=device, display=display)
        about["thresholds"] = best_thresholds(judged.probabilities, judged.truths)
        bundle = Bundle(model, about, images.preprocess)
    scores, confusion = score(bundle, images.evaluation("test"), device=device, display=display)
    found = {"metrics": {"split": "test", **asdict(scores)}}
    found |= {} if confusion is None else {"confusion": confusion.tolist()}
    bundle = Bundle(model, {**about, **found}, images.preprocess)
    save_bundle(run.model, bundle, model_card(bundle.about, scores))
    display.show(headline_table(scores, "test"))
    close_diagnosis(run, config, prepared, images, bundle, display=display)
    return bundle


def score(
    bundle: Bundle, loader: Loader, *, device: torch.device, display: Display
) -> tuple[Scores | MultiScores, NDArray[np.int64] | None]:
    """The scores of a bundle, and the (K, K) confusion, rows the truth, where images have exactly one class."""
    if bundle.task == "multi":
        judged = judge(bundle, loader, device=device, display=display)
        return summarize_labels(judged, bundle.about["thresholds"]), None
    counts = _fill(Counts.zeros(len(bundle.classes)), bundle, loader, device=device, display=display)
    return summarize(counts), confusion_array(counts)


def judge(bundle: Bundle, loader: Loader, *, device: torch.device, display: Display) -> Judged:
    """What a bundle says of every image, and the truth, where images may have several classes."""
    return _fill(Outputs(len(bundle.classes)), bundle, loader, device=device, display=display).read()


def _fill(into: Filled, bundle: Bundle, loader: Loader, *, device: torch.device, display: Display) -> Filled:
    bundle.to(device)
    with watched_workers(), display.bar("evaluating", loader.num_images) as advance:
        return evaluate(bundle.logits, loader, into=into, device=device, progress=advance)


def _about(config: Config, prepared: Prepared, images: Images, model: Classifier) -> dict[str, Any]:
    return {
        "architecture": {
            "name": config.model.name,
            "num_classes": model.num_classes,
            "in_channels": model.in_channels,
            "image_size": model.image_size,
            "options": dict(config.model.options),
        },
        "task": prepared.task,
        "classes": list(prepared.classes),
        "preprocess": images.preprocess.to_json(),
        "calibration": {"method": "none", "temperature": 1.0},
        **({"thresholds": [DEFAULT] * len(prepared.classes)} if prepared.task == "multi" else {}),
        "data_fingerprint": prepared.fingerprint(),
        "metrics": {},
    }


def _licence(run: Run) -> str:
    began = run.read_manifest().get("weights")  # runs of version 0.1 do not say
    if not began:
        return "not stated: that of the training images applies"
    publisher, licence = began["publisher"] or "no publisher named", began["licence"] or "none stated"
    return f"not stated: those of the training images and of the weights it began with apply ({publisher}: {licence})"
