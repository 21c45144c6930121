"""What val decides once training is over: calibration, and when a model says that it is not sure."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from linnaeus.app.answers import Answers
from linnaeus.app.config import ConfidenceConfig
from linnaeus.metrics.calibrate import Calibration, Fitted, fit_calibration
from linnaeus.metrics.conformal import set_threshold
from linnaeus.metrics.novelty import familiarity, familiarity_threshold
from linnaeus.metrics.probabilities import activate, calibrate, judged_answers, trust
from linnaeus.metrics.selective import RISK, highest_promise, images_needed, promise
from linnaeus.metrics.thresholds import best_thresholds


@dataclass(frozen=True)
class Settled:
    """What val decided.

    Attributes:
        about: the parts of `model.json` that say it.
        lines: the same for a person.
    """

    about: dict[str, Any]
    lines: list[str] = field(default_factory=list)


def settle(val: Answers, config: ConfidenceConfig) -> Settled:
    """Calibration, thresholds of classes where an image may have several, and the limits of confidence."""
    several = val.task == "multi"
    fitted = fit_calibration(val.logits, val.truths, several=several)
    logits = calibrate(val.logits, fitted.calibration)
    probabilities = activate(logits, several=several)
    thresholds = best_thresholds(probabilities, val.truths) if several else None
    before, after = (trust(own, val.truths, several=several).calibration_error for own in (val.logits, fitted.logits))
    evidence = {
        "split": "val",
        "n": fitted.n,
        "log_loss": {"before": fitted.before, "after": fitted.after},
        "calibration_error": {"before": asdict(before), "after": asdict(after)},
    }
    about: dict[str, Any] = {"calibration": {**fitted.calibration.to_json(), "held_out": evidence}}
    about |= {} if thresholds is None else {"thresholds": thresholds}
    familiar = familiarity(torch.from_numpy(val.logits), several=several).numpy()
    confidence: dict[str, Any] = {
        "familiarity": {
            "threshold": familiarity_threshold(familiar, config.false_alarms),
            "false_alarms": config.false_alarms,
        }
    }
    if not several:
        threshold = set_threshold(probabilities, val.truths.argmax(1), config.set_coverage)
        confidence["sets"] = {"threshold": threshold, "coverage": config.set_coverage}
    lines = [f"{_calibration_in_words(fitted)}; calibration error {before.value:.1%} before, {after.value:.1%} after"]
    if config.min_accuracy is not None:
        abstain, line = promise_of(val, fitted.calibration, thresholds, config.min_accuracy)
        confidence["abstain"] = abstain
        lines.append(line)
    return Settled({**about, "confidence": confidence}, lines)


def promise_of(
    val: Answers, calibration: Calibration, thresholds: list[float] | None, min_accuracy: float
) -> tuple[dict[str, Any], str]:
    """What `model.json` says under "confidence.abstain", its "threshold" None where nothing can be promised; a line."""
    confidences, right = judged_answers(calibrate(val.logits, calibration), val.truths, thresholds)
    found = promise(confidences, right, min_accuracy)
    if found is not None:
        line = (
            f"where an answer is given, {100 * min_accuracy:.4g}% or more are right (promised with "
            f"{1 - RISK:.0%} confidence): of the {len(val):,} images of val {found.coverage.value:.1%} get one, and "
            f"{found.accuracy.value:.1%} of these are right"
        )
        return asdict(found), line
    highest = highest_promise(confidences, right)
    at_best = "none of at least 50%" if highest is None else f"at most {highest:.3g}"
    line = (
        f"an accuracy of {min_accuracy:.3g} cannot be promised: it takes {images_needed(min_accuracy):,} images of val "
        f"with right answers alone, or more; the {len(val):,} of this run allow {at_best}"
    )
    return {"min_accuracy": min_accuracy, "risk": RISK, "threshold": None}, line


def _calibration_in_words(fitted: Fitted) -> str:
    n, before, after = f"{fitted.n:,} images of val", f"{fitted.before:.4f}", f"{fitted.after:.4f}"
    calibration = fitted.calibration
    if calibration.method == "none":
        return f"calibration: none, for none lowers the log-loss of held-out images ({before} on {n})"
    form = f"temperature {calibration.temperature:.3f}"
    form = form if calibration.method == "temperature" else "a factor and an offset for each class"
    return f"calibration: {form}; log-loss on {n} {before} before, {after} after, each judged by a fit on the others"
