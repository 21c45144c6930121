"""Everything that a report tells of a run, as data: gathered once, kept as JSON, drawn as often as wished."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from linnaeus.metrics.intervals import Interval
from linnaeus.metrics.probabilities import Probabilities
from linnaeus.metrics.robustness import Robustness
from linnaeus.metrics.slices import Slice
from linnaeus.report.exported import Exported

KIND, VERSION = "linnaeus-report", 1


@dataclass(frozen=True)
class Counted:
    """How many images there are, and where the held-out ones come from.

    Attributes:
        by_role: "train", "val" and "test" -> images.
        carved: the roles that were carved out of train; the others were given.
        left_out: images that were left out of training, or could not be read.
    """

    by_role: dict[str, int]
    carved: list[str]
    left_out: int

    @property
    def origin(self) -> str:
        """Where the test images come from, in words."""
        if "test" in self.carved:
            return "set aside from the same images before training"
        return "given as a split of their own"


@dataclass(frozen=True)
class ClassRow:
    """One class on the test images.

    Attributes:
        trained: its training images.
        support: its test images.
        recall: of its images, how many are found; None without any. Where an image may have several classes, and in
            `precision`, at the threshold of the class.
        taken_for: what its images are most often taken for instead, and how many; None where never, or unknown.
        average_precision, threshold, said: where an image may have several classes; from which probability on an
            image is said to have the class, and of how many test images it is said.
    """

    name: str
    trained: int
    support: int
    precision: float
    recall: Interval | None
    f1: float
    taken_for: tuple[str, int] | None = None
    average_precision: float | None = None
    threshold: float | None = None
    said: int | None = None


@dataclass(frozen=True)
class Baseline:
    """What a plain way to answer reaches on the same test images.

    Attributes:
        gain: of the model over it, of the same images.
    """

    name: str
    accuracy: Interval
    gain: Interval


@dataclass(frozen=True)
class Shown:
    """One image with what was said of it.

    Attributes:
        picture, overlay: data URIs; "" where the image could not be read, and where there is no explanation.
        label_probability: of its label.
        said_probability: of what the model said.
    """

    name: str
    role: str
    label: str
    said: str
    label_probability: float
    said_probability: float
    picture: str = ""
    overlay: str = ""


@dataclass(frozen=True)
class Point:
    """A linear head that learnt from some of the training images.

    Attributes:
        images: how many.
        accuracy: on the test images.
        low, high: the lowest and the highest of the draws of these images.
    """

    images: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """What more images would bring.

    Attributes:
        features: what the head sees, in words.
        is_own: whether these are the features that the network began with, so that the curve is about this task as
            the network sees it; else they are plain ones, and the curve tells of the task alone.
        doubled: the accuracy expected with twice the images, with what the fits say of their uncertainty; None where
            the curve does not follow a law.
        gains: class -> points of recall that the last doubling of the images brought, the largest first.
    """

    features: str
    is_own: bool
    points: list[Point]
    doubled: Interval | None
    gains: list[tuple[str, float]]


@dataclass(frozen=True)
class Speed:
    """What the model costs.

    Attributes:
        milliseconds: of one image, alone, from prepared pixels to probabilities; the median.
        slow_milliseconds: in one of twenty cases it takes longer.
        images_per_second: in batches of `batch`.
        device: in words, with the versions that matter.
        parameters: of the network.
        bytes: of its file of weights.
    """

    milliseconds: float
    slow_milliseconds: float
    images_per_second: float
    batch: int
    device: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Nearby:
    """What confidences near a number are worth.

    Attributes:
        low, high: the confidences that are counted as near.
        accuracy: of the answers; None where there are none.
    """

    stated: float
    low: float
    high: float
    accuracy: Interval | None


@dataclass(frozen=True)
class Wish:
    """An accuracy that is wished for, and what keeping it takes.

    Attributes:
        threshold: the confidence from which on an answer is given, such that val promises the accuracy; None where val
            promises it at no confidence.
        needed: images of val, all answered rightly, that the promise takes at least.
        coverage: the part of the test images that gets an answer, and `accuracy` how many of these are right.
    """

    min_accuracy: float
    threshold: float | None
    needed: int
    coverage: Interval | None = None
    accuracy: Interval | None = None


@dataclass(frozen=True)
class Record:
    """A run, as a person should be told of it; `to_json` and `from_json` keep it.

    Attributes:
        title: what the run is called.
        source: the images, as the user calls them.
        headline: the foremost measure on the test images, and in `measures` all of them by name.
        confusion: (K, K) images, rows the truth; None where an image may have several classes.
        baselines: the strongest last.
        curves: a line an epoch of the run's record; one of step 0 where the run began with a fitted head.
        best_step: whose state became the model; None if unknown.
        findings: of the doctor: severity, title, reason, advice, images.
        mistakes: the surest errors on the test images, the worst first.
        suspects: held-out images whose labels look wrong, the surest first; None where they were not looked for.
        num_suspects: how many there are in all.
        nearby: what confidences near 0.9 and others are worth.
        wishes: what an accuracy of 90% and others takes.
        robustness: as `evaluate --robustness` has left it.
        exports: as `export` has left them.
        folder: of the run, as a command line takes it; the title where it is not known.
        missing: section -> why there is nothing to show, in a sentence.
        provenance: name -> value, in words.
        calibration, confidence: as `model.json` has them.
    """

    title: str
    source: str
    task: Literal["single", "multi"]
    model: str
    classes: list[str]
    counted: Counted
    headline: str
    measures: dict[str, Interval]
    rows: list[ClassRow]
    confusion: list[list[int]] | None
    baselines: list[Baseline]
    curves: list[dict[str, float]]
    findings: list[dict[str, Any]]
    provenance: dict[str, str]
    calibration: dict[str, Any]
    confidence: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    probabilities: Probabilities | None = None
    nearby: list[Nearby] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    mistakes: list[Shown] = field(default_factory=list)
    suspects: list[Shown] | None = None
    num_suspects: int = 0
    learning: LearningCurve | None = None
    speed: Speed | None = None
    robustness: Robustness | None = None
    exports: list[Exported] = field(default_factory=list)
    folder: str = ""
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def top(self) -> Interval:
        """The foremost measure."""
        return self.measures[self.headline]

    @property
    def path(self) -> str:
        """The run in a command to copy."""
        return self.folder or self.title

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)


def from_json(content: Mapping[str, Any]) -> Record:
    """Of a report's JSON file; keys that it does not know are ignored."""
    record: Record = _read(Record, content)
    return record


def _read(kind: Any, content: Any) -> Any:
    """A value of a type of this file from what JSON has made of it."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        present = {each.name for each in fields(kind)} & content.keys()
        return kind(**{name: _read(hints[name], content[name]) for name in present})  # type: ignore[operator]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        (only,) = (part for part in inner if part is not NoneType)
        return None if content is None else _read(only, content)
    if origin is list:
        return [_read(inner[0], each) for each in content]
    if origin is tuple:
        kinds = [inner[0]] * len(content) if inner[-1] is Ellipsis else inner
        return tuple(_read(part, each) for part, each in zip(kinds, content, strict=True))
    if origin is dict:
        return {key: _read(inner[1], value) for key, value in content.items()}
    return content
