"""What test-time augmentation brings a finished model on val, and what it costs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.answers import Answers
from linnaeus.app.progress import Display
from linnaeus.deploy.views import NUM_VIEWS
from linnaeus.metrics.multilabel import average_precisions


def weigh_views(tta: str, answers: Answers, plain: Callable[[], Answers], display: Display) -> dict[str, Any]:
    """Says what the views of `tta` bring on val.

    Args:
        answers: what the model says with the views.
        plain: asks it again about the same images, without them; not called where there are none.

    Returns:
        What `model.json` holds as "tta".
    """
    if tta == "none":
        return {"views": tta}
    single, without = answers.task == "single", plain()
    before, after = ((_right(each).mean() if single else _map(each)) for each in (without, answers))
    change = ""
    if single and len(without) == len(answers):
        right, was_right = _right(answers), _right(without)
        change = f" ({(right & ~was_right).sum():,} answers corrected, {(was_right & ~right).sum():,} spoilt)"
    display.say(
        f"test-time augmentation ({tta}): {'top-1' if single else 'mAP'} on the {len(answers):,} images of val "
        f"{before:.2%} without and {after:.2%} with it{change}; a prediction takes {NUM_VIEWS[tta]} times as long"
    )
    return {"views": tta, "val": {"n": len(answers), "without": float(before), "with": float(after)}}


def _right(answers: Answers) -> NDArray[np.bool_]:
    """(N,): whether the most probable class of each image is the truth."""
    right: NDArray[np.bool_] = answers.truths[np.arange(len(answers)), answers.logits.argmax(1)]
    return right


def _map(answers: Answers) -> float:
    return float(np.nanmean(average_precisions(answers.logits, answers.truths)))
