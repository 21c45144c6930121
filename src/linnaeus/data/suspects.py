"""Labels that look wrong, by confident learning on predictions for images that the model did not learn from.

Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", J. Artif. Intell.
Res. 70, 1373-1411, as their library `cleanlab` computes it.
"""

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import RequestError
from linnaeus.data.findings import Finding
from linnaeus.data.sources import Labels


def find_suspects(probabilities: NDArray[np.floating], positions: NDArray[np.int64], labels: Labels) -> Finding | None:
    """The images whose label contradicts the predictions, the surest first.

    Args:
        probabilities: (M, K) of images that were held out of training, rows summing to 1; calibrated ones serve best.
        positions: (M,) which images these are.
        labels: of the whole source, one class an image.

    Returns:
        A finding of kind "suspect_label", or None if no label looks wrong.

    Raises:
        RequestError: if `cleanlab` is not installed, or images may have several classes.
    """
    if labels.task != "single":
        raise RequestError("wrong labels are looked for where an image has one class; here images may have several")
    try:
        from cleanlab.filter import find_label_issues  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise RequestError("looking for wrong labels needs an extra: pip install 'linnaeus[doctor]'") from None
    given = labels.targets[positions].astype(np.int64)
    ranked = find_label_issues(
        given, probabilities.astype(np.float64), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    if not len(ranked):
        return None
    files = {
        int(positions[row]): _reason(probabilities[row], int(given[row]), labels.classes) for row in ranked.tolist()
    }
    share = f"{len(files):,} of {len(positions):,} held-out images ({len(files) / len(positions):.1%})"
    return Finding("suspect_label", f"The labels of {share} contradict what the model predicts.", files)


def _reason(probabilities: NDArray[np.floating], given: int, classes: tuple[str, ...]) -> str:
    likely = int(probabilities.argmax())
    return (
        f"labelled '{classes[given]}' ({probabilities[given]:.0%}), looks like '{classes[likely]}' "
        f"({probabilities[likely]:.0%})"
    )
