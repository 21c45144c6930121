"""The verdict on an exported artefact: the same answers as the network it came from, on real images, or no delivery.

| artefact | refused where |
|---|---|
| any | it stops or gives something else than probabilities, at 1, 2, an odd or a large number of images at once |
| any | an image gets another answer by company than alone: probabilities differ by more than the rounding allows |
| float32 | any probability differs from the network's by `FLOAT_GAP` or more |
| of reduced precision | it loses more accuracy (the estimate) than was allowed |
| of reduced precision | it gives the same answer to fewer of the images than was asked for |
| of reduced precision | the log-loss rises by more than `LOSS_RISE` |
| any | its golden samples give other probabilities in a process that has no Linnaeus |

Every figure is of the same images for both, so that its interval is a paired one.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from linnaeus.deploy.formats.base import Pixels, Run, Takes, Unrunnable
from linnaeus.metrics.compare import compare_answers
from linnaeus.metrics.intervals import Interval, bootstrap_mean, wilson

SIZES = (1, 2, 7)
"""Images at once, to begin with; all others come `LARGE` at once."""
LARGE = 32
FLOAT_GAP = 1e-4
"""Probabilities of float32 artefacts differ by less."""
COMPANY = {"f32": 1e-4}
COMPANY_REDUCED = 0.05
"""How far a probability may depend on the images beside it: kernels for other numbers of images round differently."""
GOLDEN_SIDE = 512
"""Pixels of a side of a golden sample of any size, at most."""
LOSS_RISE = 0.05
"""Nats of log-loss that reduced precision may cost."""
SEED = 2026

Outcome = Literal["delivered", "warned", "refused", "not scored"]


@dataclass(frozen=True)
class Limits:
    """What an artefact of reduced precision may lose.

    Attributes:
        max_drop: points of accuracy.
        min_agreement: share of the images that get the same answer, in [0, 1].
    """

    max_drop: float = 1.0
    min_agreement: float = 0.97


@dataclass(frozen=True)
class Held:
    """The images that an artefact is judged on, and what the network says of them.

    Attributes:
        what: the images in words.
        images: (N, S, S, C) uint8, prepared.
        truths: (N, K) bool.
        expected: (N, K) float32, the network's probabilities.
        thresholds: (K,) where an image may have several classes, else None.
        whole: row -> (H, W, C) uint8, the image as it was before it was prepared; None where that is not known.
    """

    what: str
    images: Pixels
    truths: NDArray[np.bool_]
    expected: NDArray[np.float32]
    thresholds: tuple[float, ...] | None
    whole: Callable[[int], Pixels] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def golden(self, count: int, takes: Takes) -> list[Pixels]:
        """The first images, (H, W, C) uint8, as an artefact takes them; large ones by every so many-th pixel."""
        if takes == "prepared" or self.whole is None:
            return list(self.images[:count])
        found = (self.whole(row) for row in range(min(count, len(self))))
        steps = ((image, -(-max(image.shape) // GOLDEN_SIDE)) for image in found)
        return [np.ascontiguousarray(image[::step, ::step]) for image, step in steps]

    def answers(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N, K) -> (N, K), the classes that are given as the answer."""
        if self.thresholds is not None:
            return probabilities.astype(np.float64) >= np.array(self.thresholds)
        chosen: NDArray[np.bool_] = np.arange(probabilities.shape[1]) == probabilities.argmax(1)[:, None]
        return chosen

    def right(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(N, K) -> (N,), whether the answer is right in every respect."""
        answers = self.answers(probabilities)
        right: NDArray[np.bool_] = (answers == self.truths).all(1)
        return right

    def losses(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, K) -> (N,) negative log likelihoods, in nats; of several classes the mean over the labels."""
        wide = probabilities.astype(np.float64).clip(1e-7, 1 - 1e-7)
        own = -np.log(np.where(self.truths, wide, 1 - wide))
        losses: NDArray[np.float64] = own.mean(1) if self.thresholds else own[self.truths]
        return losses


@dataclass(frozen=True)
class Score:
    """An artefact beside its network, on the same images.

    Attributes:
        accuracy: of the artefact.
        change: its accuracy less the network's, paired.
        lost, gained: images that only the network, or only the artefact, answers rightly.
        agreement: share of the images that get the same answer.
        gap: the largest difference of any probability.
        loss_change: log-loss of the artefact less the network's, in nats, paired.
    """

    images: str
    accuracy: Interval
    change: Interval
    lost: int
    gained: int
    agreement: Interval
    gap: float
    loss_change: Interval


@dataclass(frozen=True)
class Verdict:
    """What the gate says of an artefact.

    Attributes:
        reasons: why it is refused, or what a person should know of it, in sentences.
        score: None where it could not be scored.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    score: Score | None

    @property
    def passed(self) -> bool:
        """Whether the artefact is delivered."""
        return self.outcome != "refused"

    def refused_for(self, reason: str) -> "Verdict":
        """The same verdict, with a reason to refuse more."""
        before = self.reasons if self.outcome == "refused" else ()
        return replace(self, outcome="refused", reasons=(*before, reason))

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def judge(run: Run, held: Held, *, precision: str, limits: Limits, takes: Takes = "prepared") -> Verdict:
    """Runs an artefact on all images, first `SIZES` and then `LARGE` at once, and some of them again alone.

    One that takes images of any size gets each at its own size, alone.
    """
    try:
        if takes == "any" and held.whole is not None:
            found = np.concatenate([_ask(run, held.whole(row)[None], held) for row in range(len(held))])
            alone = found
        else:
            found = np.concatenate([_ask(run, part, held) for part in _parts(held.images)])
            alone = np.concatenate([_ask(run, image[None], held) for image in held.images[:LARGE]])
    except Unrunnable as error:
        return Verdict("refused", (str(error),), None)
    score = measure(held, found)
    reasons = list(_reasons(score, precision, limits))
    company = float(np.abs(found[: len(alone)] - alone).max())
    if company > COMPANY.get(precision, COMPANY_REDUCED):
        reasons.append(f"an image gets other probabilities in company than alone: they differ by up to {company:.2g}")
    if reasons:
        return Verdict("refused", tuple(reasons), score)
    worst = -100 * score.change.low
    if precision != "f32" and worst > limits.max_drop:
        words = (
            f"{len(held):,} images are too few to show that no more than {limits.max_drop:g} points are lost: "
            f"it may be up to {worst:.1f}"
        )
        return Verdict("warned", (words,), score)
    return Verdict("delivered", (), score)


def measure(held: Held, found: NDArray[np.float32]) -> Score:
    """(N, K) probabilities of an artefact -> how they differ from the network's, with paired intervals."""
    before, after = held.right(held.expected), held.right(found)
    same = (held.answers(held.expected) == held.answers(found)).all(1)
    compared = compare_answers(before, after)
    return Score(
        images=held.what,
        accuracy=wilson(int(after.sum()), len(held)),
        change=compared.difference,
        lost=compared.only_first,
        gained=compared.only_second,
        agreement=wilson(int(same.sum()), len(held)),
        gap=float(np.abs(found - held.expected).max()),
        loss_change=bootstrap_mean(held.losses(found) - held.losses(held.expected), seed=SEED),
    )


def _reasons(score: Score, precision: str, limits: Limits) -> Iterator[str]:
    """Why it is refused."""
    drop = -100 * score.change.value
    if precision == "f32":
        if score.gap >= FLOAT_GAP:
            yield f"a probability differs by {score.gap:.2g} from the network's: float32 is allowed {FLOAT_GAP:g}"
        return
    ends = f"95% interval {-100 * score.change.high:.1f} to {-100 * score.change.low:.1f}, n = {score.change.n:,}"
    if drop > limits.max_drop:
        yield f"it loses {drop:.1f} points of accuracy ({ends}), and {limits.max_drop:g} are allowed (--max-drop)"
    if score.agreement.value < limits.min_agreement:
        yield (
            f"it agrees with the network on {score.agreement.value:.1%} of the images, and "
            f"{limits.min_agreement:.1%} are asked for (--min-agreement)"
        )
    if score.loss_change.value > LOSS_RISE:
        yield (
            f"its probabilities mean less: the log-loss rises by {score.loss_change.value:.3f} nats, and "
            f"{LOSS_RISE:g} are allowed"
        )


def _ask(run: Run, images: Pixels, held: Held) -> NDArray[np.float32]:
    """What an artefact says of some images, if these are probabilities at all."""
    found = run(images)
    expected = (len(images), held.expected.shape[1])
    if found.shape != expected:
        raise Unrunnable(f"{len(images)} images at once: it gives {found.shape}, and {expected} was expected")
    if not np.isfinite(found).all() or found.min() < -1e-3 or found.max() > 1 + 1e-3:
        raise Unrunnable(f"{len(images)} images at once: it gives numbers that are no probabilities")
    if held.thresholds is None and np.abs(found.sum(1) - 1).max() > 1e-2:
        raise Unrunnable(f"{len(images)} images at once: the probabilities of the classes do not sum to 1")
    return found


def _parts(images: Pixels) -> Iterator[Pixels]:
    """All images, in parts."""
    ends = [*np.cumsum(SIZES).tolist(), *range(sum(SIZES) + LARGE, len(images) + LARGE, LARGE)]
    return (part for part in np.split(images, ends) if len(part))
