"""After training: held-out images whose labels look wrong, and the doctor's page of the run."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from linnaeus.app.answers import Answers
from linnaeus.app.config import Config
from linnaeus.app.doctor import write_page
from linnaeus.app.prepare import Prepared
from linnaeus.app.progress import Display
from linnaeus.app.run import Run
from linnaeus.core.errors import RequestError
from linnaeus.data.findings import printable
from linnaeus.data.suspects import Suspect, check_possible, find_suspects, to_finding, write_suspects
from linnaeus.deploy.bundle import Bundle
from linnaeus.metrics.probabilities import activate, calibrate

_SHOWN = 3  # suspects in a line


def close_diagnosis(
    run: Run, config: Config, prepared: Prepared, bundle: Bundle, answers: Sequence[Answers], *, display: Display
) -> None:
    """Writes the doctor's page of a run, with the images of val and test whose labels look wrong to its model.

    | file | content |
    |---|---|
    | `data/doctor.html` | what was found before training, and the labels that look wrong, with pictures |
    | `data/suspects.csv` | the latter as a table, the surest first; absent where they could not be looked for |

    Args:
        bundle: the delivered model.
        answers: for the images of val and of test.
    """
    page, diagnosis = run.data / "doctor.html", prepared.diagnosis
    try:
        check_possible(prepared.source.labels)
    except RequestError as reason:
        remark = f"Labels that look wrong were not looked for: {reason}."
        display.say(f"{remark[:-1]}. The doctor's page: {page}")
    else:
        positions = np.concatenate([own.positions for own in answers])
        logits = calibrate(np.concatenate([own.logits for own in answers]), bundle.calibration)
        probabilities = activate(logits, several=False)
        suspects = find_suspects(probabilities, positions, prepared.source.labels)
        write_suspects(run.data / "suspects.csv", suspects, prepared.source.name, prepared.split.roles)
        if suspects:
            diagnosis = replace(diagnosis, findings=(*diagnosis.findings, to_finding(suspects, len(positions))))
        remark = _remark(prepared, probabilities, positions)
        display.say(f"{_in_words(suspects, len(positions), prepared)}. With pictures: {page}")
    write_page(page, config.data.source, prepared.source, diagnosis, remark=remark)


def _remark(prepared: Prepared, probabilities: NDArray[np.float32], positions: NDArray[np.int64]) -> str:
    """Whose labels were judged, by how good a model, and whose were not."""
    right = float((probabilities.argmax(1) == prepared.source.labels.targets[positions]).mean())
    trained = len(prepared.split.indices("train"))
    other = " A run with another seed holds out, and judges, others." if prepared.split.carved else ""
    return (
        f"Labels: those of the {len(positions):,} images of val and test were judged, by a model that agrees with "
        f"{right:.1%} of them. Those of the {trained:,} training images were not, for the model has learnt them.{other}"
    )


def _in_words(suspects: Sequence[Suspect], judged: int, prepared: Prepared) -> str:
    if not suspects:
        return f"Labels that look wrong: none of {judged:,} held-out images"
    shown = "; ".join(
        f"{printable(prepared.source.name(s.position))} ('{s.label}' looks like '{s.looks_like}')"
        for s in suspects[:_SHOWN]
    )
    more = f"; and {len(suspects) - _SHOWN:,} more in data/suspects.csv" if len(suspects) > _SHOWN else ""
    return f"Labels that look wrong: {len(suspects):,} of {judged:,} held-out images: {shown}{more}"
