"""Labels that look wrong, by confident learning on predictions for images that the model did not learn from.

Northcutt, Jiang and Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", J. Artif. Intell.
Res. 70, 1373-1411, as their library `cleanlab` computes it, by the paper's "C+NR": suspected is what both of its rules
for pruning would leave out. On photos with a tenth of the labels changed this found nearly as many as either, and was
right more often.
"""

import csv
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linnaeus.core.errors import RequestError
from linnaeus.core.files import write_text
from linnaeus.data.findings import Finding, printable
from linnaeus.data.sources import Labels

COLUMNS = ("path", "role", "label", "looks_like", "label_probability", "looks_like_probability")


@dataclass(frozen=True)
class Suspect:
    """An image whose label the predictions contradict.

    Attributes:
        position: in its source.
        label: the class it was given.
        looks_like: the most probable class, which is another.
        label_probability: of the given class, in [0, 1].
        looks_like_probability: of the other, in [0, 1].
    """

    position: int
    label: str
    looks_like: str
    label_probability: float
    looks_like_probability: float


def check_possible(labels: Labels) -> None:
    """Says whether wrong labels can be looked for, before any work is done for it. Imports the library: some seconds.

    Raises:
        RequestError: if images may have several classes, or `cleanlab` is not installed.
    """
    if labels.task != "single":
        raise RequestError("that needs exactly one class an image, and here images may have several")
    try:
        import cleanlab.filter  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise RequestError(f"that needs pip install 'linnaeus[doctor]' ({error})") from None


def find_suspects(
    probabilities: NDArray[np.floating], positions: NDArray[np.int64], labels: Labels
) -> tuple[Suspect, ...]:
    """The images whose label contradicts the predictions, the surest first.

    Args:
        probabilities: (M, K) of images that were held out of training, rows summing to 1.
        positions: (M,) which images these are.
        labels: of the whole source, such that `check_possible` accepts them.
    """
    from cleanlab.filter import find_label_issues

    given = labels.targets[positions].astype(np.int64)
    if len(np.unique(given)) < 2:  # nothing to be confused with; the library refuses it
        return ()
    with warnings.catch_warnings():
        # Of a class with a single image here, whose label cannot be doubted: there is nothing to estimate from.
        warnings.filterwarnings("ignore", message="May not flag all label issues in class")
        rows = find_label_issues(
            given,
            probabilities.astype(np.float64),
            filter_by="both",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    likely = probabilities.argmax(1)
    return tuple(
        Suspect(
            int(positions[row]),
            labels.classes[given[row]],
            labels.classes[likely[row]],
            float(probabilities[row, given[row]]),
            float(probabilities[row, likely[row]]),
        )
        for row in rows.tolist()
    )


def to_finding(suspects: Sequence[Suspect], judged: int) -> Finding:
    """The suspects, of which there is at least one, among `judged` images as the doctor tells them."""
    share = f"{len(suspects):,} of {judged:,} held-out images ({len(suspects) / judged:.1%})"
    files = {
        suspect.position: f"labelled '{suspect.label}' ({suspect.label_probability:.0%}), "
        f"looks like '{suspect.looks_like}' ({suspect.looks_like_probability:.0%})"
        for suspect in suspects
    }
    contradicts = "label of {} contradicts" if len(suspects) == 1 else "labels of {} contradict"
    return Finding("suspect_label", f"The {contradicts.format(share)} what the model predicts.", files)


def write_suspects(
    path: Path, suspects: Sequence[Suspect], name: Callable[[int], str], roles: NDArray[np.str_]
) -> None:
    """Writes a CSV table of `COLUMNS`, atomically; `name` is the source's, `roles` those of its images."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a name with a "\r" is torn
    writer.writerow(COLUMNS)
    for suspect in suspects:
        about = (printable(name(suspect.position)), roles[suspect.position], suspect.label, suspect.looks_like)
        writer.writerow([*about, f"{suspect.label_probability:.6f}", f"{suspect.looks_like_probability:.6f}"])
    write_text(path, table.getvalue())
