"""What a classifier says of one image, and when it says that it is not sure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        label: the most probable class; where an image may have several, those of `labels` as a cell of a table, such as
            `cat|dog`, or "" for none; and "" where the image could not be read, or the classifier abstained.
        probability: of the most probable class, in [0, 1].
        top: (class, probability) pairs, the most probable first.
        error: why the image could not be read, or "".
        labels: (class, probability) pairs, the most probable first: the one class of the image; or, where it may have
            several, all whose probability reaches the threshold of the class, perhaps none. None where it abstained.
        abstained: whether the classifier is not sure enough for the accuracy that it was asked to keep.
        unfamiliar: whether the image is unlike the training images, so that no probability means much.
        candidates: the classes that hold the true one with the probability that `model.json` states under "sets"; empty
            where images may have several classes, or too few were held out to tell.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    labels: tuple[tuple[str, float], ...] = ()
    abstained: bool = False
    unfamiliar: bool = False
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """What a classifier makes of one image: the prediction, and the numbers behind it.

    Attributes:
        embedding: (D,) float32 on the CPU, what the head classifies; None where the image could not be read.
        probabilities: (K,) float32 on the CPU, as of a `Runtime`; None where the image could not be read.
    """

    prediction: Prediction
    embedding: Tensor | None = None
    probabilities: Tensor | None = None


@dataclass(frozen=True)
class Limits:
    """What `model.json` says under "confidence"; models of version 1 say nothing, and have no limits.

    Attributes:
        sureness: at or below it the classifier abstains: always, where a promise was asked for and cannot be given.
        familiarity: below it an image is unlike the training images.
        candidates: from which probability on a class belongs to the set of an image.
    """

    sureness: float = -1.0
    familiarity: float = -inf
    candidates: float | None = None

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Limits":
        """Of `model.json`."""
        abstain = content.get("abstain")
        sureness = -1.0 if abstain is None else inf if abstain["threshold"] is None else abstain["threshold"]
        threshold = content.get("familiarity", {}).get("threshold")
        return Limits(sureness, -inf if threshold is None else threshold, content.get("sets", {}).get("threshold"))
