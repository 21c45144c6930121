"""What became of each artefact that was exported of a run, as its report tells it."""

from dataclasses import dataclass, field
from typing import Literal

from linnaeus.metrics.intervals import Interval


@dataclass(frozen=True)
class Covered:
    """Shares of a network, each in [0, 1], that an artefact computes in 8 bits.

    Attributes:
        layers, weights, macs: of the layers with weights, of these weights, and of the multiply-accumulates.
    """

    layers: float
    weights: float
    macs: float


@dataclass(frozen=True)
class Judged:
    """An artefact beside its network, on the same images.

    Attributes:
        images: these in words.
        change: accuracy of the artefact less that of the network, paired.
        agreement: share of the images that get the same answer.
        gap: the largest difference of any probability.
        loss_change: log-loss of the artefact less that of the network, in nats, paired.
    """

    images: str
    accuracy: Interval
    change: Interval
    agreement: Interval
    gap: float
    loss_change: Interval


@dataclass(frozen=True)
class Exported:
    """One artefact that was made, or could not be.

    Attributes:
        name: format and precision, such as `onnx:int8`.
        outcome: what the gate said.
        reasons: why it was refused, or what a person should know of it, in sentences.
        score: None where it could not be scored.
        covered: None where it was not to compute in 8 bits.
        float_layers: that were kept in floating point, for the sake of accuracy.
        bytes: of what a runtime loads; 0 where there is nothing.
        tuning: what was done to the weights before quantization, in words; empty for nothing.
    """

    name: str
    outcome: Literal["delivered", "warned", "refused", "not scored"]
    reasons: list[str] = field(default_factory=list)
    score: Judged | None = None
    covered: Covered | None = None
    float_layers: list[str] = field(default_factory=list)
    bytes: int = 0
    tuning: str = ""
