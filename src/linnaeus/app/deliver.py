"""The end of a run: the best weights become a bundle, judged once on the test images."""

from dataclasses import asdict
from typing import Any

import torch

from linnaeus.app.answers import Answers, answers_file, collect, save_answers
from linnaeus.app.config import Config
from linnaeus.app.images import Images
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.app.scoring import score
from linnaeus.app.settle import settle
from linnaeus.app.suspects import close_diagnosis
from linnaeus.app.tta import weigh_views
from linnaeus.core.classifier import Classifier
from linnaeus.deploy.bundle import Bundle, save_bundle
from linnaeus.metrics.thresholds import DEFAULT
from linnaeus.report.tables import headline_table

HELD_OUT = ("val", "test")


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
    """Settles on val what is left open, evaluates on test, in float32 as it will be used, and writes model and answers.

    Open are the calibration, the limits of confidence, and the threshold of each class where images have several. What
    test-time augmentation brings is said on val as well.
    """
    about = {**_about(config, prepared, images, model), "licence": _licence(run)}
    model = model.to(memory_format=torch.contiguous_format)

    def ask(role: str, tta: str) -> Answers:
        bundle = Bundle(model, {**about, "tta": {"views": tta}}, images.preprocess)
        loader = images.evaluation(role)
        return collect(bundle, loader, prepared.source, prepared.audit, device=device, display=display)

    tta = config.train.tta
    answers = {role: ask(role, tta) for role in HELD_OUT}
    for role, said in answers.items():
        save_answers(answers_file(run.folder, role), said)
    about["tta"] = weigh_views(tta, answers["val"], lambda: ask("val", "none"), display)
    settled = settle(answers["val"], config.confidence)
    about |= settled.about
    scores, confusion = score(answers["test"], about)
    about["metrics"] = {"split": "test", **asdict(scores)}
    about |= {} if confusion is None else {"confusion": confusion.tolist()}
    bundle = Bundle(model, about, images.preprocess)
    save_bundle(run.model, bundle)
    for line in settled.lines:
        display.say(line)
    display.show(headline_table(scores, "test"))
    close_diagnosis(run, config, prepared, bundle, list(answers.values()), display=display)
    return bundle


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
        "data_fingerprint": prepared.fingerprint,
        "metrics": {},
    }


def _licence(run: Run) -> str:
    began = run.read_manifest().get("weights")  # runs of version 0.1 do not say
    if not began:
        return "not stated: that of the training images applies"
    publisher, licence = began["publisher"] or "no publisher named", began["licence"] or "none stated"
    return f"not stated: those of the training images and of the weights it began with apply ({publisher}: {licence})"
