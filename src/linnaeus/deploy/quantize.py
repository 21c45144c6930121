"""Quantization that stops where it would hurt: layers that bear it badly go back to floating point, the worst first."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np

from linnaeus.deploy.coverage import State
from linnaeus.deploy.formats.base import Format, Job, Run, Unchanged, by_size
from linnaeus.deploy.gate import LOSS_RISE, Held, Limits, Score, measure

GIVEN_BACK = (0, 1, 2, 4, 8, 16)
"""Layers in floating point in one try after another."""
SHARE = 0.5
"""Of the accuracy that may be lost, on the images that choose: on others it may be more."""
LARGE = 32


@dataclass(frozen=True)
class Try:
    """One way to quantize.

    Attributes:
        kept: layers that stayed in floating point.
        score: on the images that choose.
    """

    kept: tuple[str, ...]
    score: Score


@dataclass(frozen=True)
class Quantized:
    """What was tried; the files of the last are in the folder.

    Attributes:
        states: what became of each layer.
    """

    states: Mapping[str, State]
    tries: tuple[Try, ...]


def write_within(
    form: Format, job: Job, folder: Path, *, held: Held, limits: Limits, worst: Callable[[], list[str]]
) -> Quantized:
    """Writes a quantized artefact that keeps within the limits on images that were not trained on.

    Where none does, that with the most answers in common with the network is left; the gate judges it on other images.

    Args:
        folder: empty; what a try leaves in it is removed before the next.
        held: images that choose.
        worst: the layers, the worst first; called when it is needed.

    Raises:
        Unchanged: if no layer was quantized.
    """
    tries: list[Try] = []
    for number in GIVEN_BACK:
        kept = tuple(worst()[:number]) if number else ()
        if len(kept) < number:
            break
        try:
            states = _write(form, replace(job, keep_float=frozenset(kept)), folder)
        except RuntimeError:  # some exporters cannot mix integers and floating point everywhere
            if not tries:
                raise
            break
        run = form.open(folder, job.precision)
        tries.append(Try(kept, _score(run if job.batch is None else by_size({job.batch: run}), held)))
        if _is_within(tries[-1].score, limits):
            return Quantized(states, tuple(tries))
    best = max(tries, key=lambda one: one.score.agreement.value)
    states = _write(form, replace(job, keep_float=frozenset(best.kept)), folder)
    return Quantized(states, (*tries, best))


def _write(form: Format, job: Job, folder: Path) -> Mapping[str, State]:
    """Writes an artefact in place of the one before."""
    shutil.rmtree(folder)
    folder.mkdir()
    states = form.write(job, folder)
    if all(state == "float" for state in states.values()):
        raise Unchanged(f"'{job.precision}' changes no layer of this network: nothing would be smaller or faster")
    return states


def _score(run: Run, held: Held) -> Score:
    parts = np.split(held.images, range(LARGE, len(held), LARGE))
    return measure(held, np.concatenate([np.array(run(np.ascontiguousarray(part))) for part in parts]))


def _is_within(score: Score, limits: Limits) -> bool:
    """Whether a try is outside by no more than one standard error: with few images chance would give layers back."""
    n, agreed = score.change.n, score.agreement.value
    lost = score.lost - score.gained - sqrt(score.lost + score.gained)
    return (
        100 * lost / n <= SHARE * limits.max_drop
        and agreed + sqrt(agreed * (1 - agreed) / n) >= limits.min_agreement
        and score.loss_change.value <= LOSS_RISE
    )
