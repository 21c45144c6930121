"""The end of a run: the best weights become a bundle, judged once on the test images."""

from dataclasses import asdict
from typing import Any

import torch

from linnaeus.app.config import Config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.batch import Loader
from linnaeus.core.classifier import Classifier
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.engine.evaluate import evaluate
from linnaeus.metrics.counts import Counts
from linnaeus.metrics.scores import confusion_array, summarize
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
    """Evaluates the model on test, in float32 as it will be used, and writes it with its scores."""
    bundle = Bundle(
        model.to(memory_format=torch.contiguous_format),
        {**_about(config, prepared, images, model), "licence": _licence(run)},
        images.preprocess,
    )
    counts = evaluate_bundle(bundle, images.evaluation("test"), device=device, display=display)
    scores = summarize(counts)
    about = {
        **bundle.about,
        "metrics": {"split": "test", **asdict(scores)},
        "confusion": confusion_array(counts).tolist(),
    }
    bundle = Bundle(model, about, images.preprocess)
    save_bundle(run.model, bundle, model_card(about, scores))
    display.show(headline_table(scores, "test"))
    return bundle


def evaluate_bundle(bundle: Bundle, loader: Loader, *, device: torch.device, display: Display) -> Counts:
    """Counts what a bundle gets right."""
    bundle.to(device)
    with display.bar("evaluating", loader.num_images) as advance:
        return evaluate(bundle.logits, loader, num_classes=len(bundle.classes), device=device, progress=advance)


def _about(config: Config, prepared: Prepared, images: Images, model: Classifier) -> dict[str, Any]:
    return {
        "architecture": {
            "name": config.model.name,
            "num_classes": model.num_classes,
            "in_channels": model.in_channels,
            "image_size": model.image_size,
            "options": dict(config.model.options),
        },
        "task": "single",
        "classes": list(prepared.classes),
        "preprocess": images.preprocess.to_json(),
        "calibration": {"method": "none", "temperature": 1.0},
        "data_fingerprint": prepared.fingerprint(),
        "metrics": {},
    }


def _licence(run: Run) -> str:
    began = run.read_manifest().get("weights")  # runs of version 0.1 do not say
    if not began:
        return "not stated: that of the training images applies"
    publisher, licence = began["publisher"] or "no publisher named", began["licence"] or "none stated"
    return f"not stated: those of the training images and of the weights it began with apply ({publisher}: {licence})"
