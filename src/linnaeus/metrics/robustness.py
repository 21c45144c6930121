"""How much a classifier loses when images are spoiled, from how well it does on every version of the same images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnaeus.metrics.intervals import Interval, redraw, wilson_bounded

SEED = 2026
_Z = NormalDist().inv_cdf(0.975)

Values = NDArray[np.float64]
"""(N,) how well each of N images is recognised, in [0, 1]: 0 or 1 where it has one class, else an F1."""


@dataclass(frozen=True)
class Entry:
    """One way to change images, in one or more settings.

    Attributes:
        name: as `corrupt` knows it, or what is changed: "resize", "jpeg", "crop".
        words: what it is, for a person.
        settings: in words, mild ones first.
        scores: the mean in each setting, in [0, 1]; of a corruption, over the images that got this severity.
        score: the mean over all settings; its n counts images.
        change: `score` less that of the images as they are, paired.
    """

    name: str
    words: str
    settings: tuple[str, ...]
    scores: tuple[float, ...]
    score: Interval
    change: Interval


@dataclass(frozen=True)
class Robustness:
    """What was measured on versions of the same images.

    Attributes:
        measure: "accuracy", or "F1 of an image" where images may have several classes.
        images: what was measured on, in words.
        seed: of the draws.
        clean: of the images as they are.
        corruptions: one entry a kind, its settings the severities 1 to 5, of which each image got one, in turn.
        mean: over all kinds and severities.
        relative: `mean` as a share of `clean`; None where `clean` is 0.
        sensitivities: to what should not matter: the filter of the resize, JPEG, the crop.
        flip_gain: mean of the image's probabilities and its mirror's, less the image's alone.
    """

    measure: str
    images: str
    seed: int
    clean: Interval
    corruptions: tuple[Entry, ...]
    mean: Interval
    relative: Interval | None
    sensitivities: tuple[Entry, ...]
    flip_gain: Interval

    @property
    def worst(self) -> Entry:
        """The corruption that costs most."""
        return min(self.corruptions, key=lambda entry: entry.score.value)

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready; read it again with `from_json`."""
        return {**asdict(self), "worst": self.worst.name}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Robustness":
        """What `to_json` wrote."""
        changes: dict[str, Any] = {key: tuple(map(_entry, content[key])) for key in ("corruptions", "sensitivities")}
        changes |= {key: Interval(**content[key]) for key in ("clean", "mean", "flip_gain")}
        changes["relative"] = None if content["relative"] is None else Interval(**content["relative"])
        return Robustness(**{key: content[key] for key in ("measure", "images", "seed")}, **changes)


def summarize_versions(
    clean: Values,
    flipped: Values,
    corrupted: Mapping[tuple[str, str], tuple[NDArray[np.int64], Values]],
    varied: Mapping[tuple[str, str], Mapping[str, Values]],
    *,
    about: Mapping[str, Any],
) -> Robustness:
    """Everything that is said of the versions of N images.

    Args:
        clean: the images as they are.
        flipped: the same, by the mean of the probabilities of the image and its mirror image.
        corrupted: (name, words) -> (N,) the severity that each image got, and the images so.
        varied: (name, words) -> setting in words -> the images in that setting.
        about: `measure`, `images` and `seed` of a `Robustness`.
    """
    each = np.mean([values for _, values in corrupted.values()], axis=0)
    return Robustness(
        **about,
        clean=wilson_bounded(clean),
        corruptions=tuple(_by_severity(*key, *found, clean) for key, found in corrupted.items()),
        mean=wilson_bounded(each),
        relative=_ratio(each, clean),
        sensitivities=tuple(_by_setting(*key, settings, clean) for key, settings in varied.items()),
        flip_gain=paired_change(clean, flipped),
    )


def image_f1(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Values:
    """(N, K) and (N, K) -> (N,) F1 of the classes of each image; 1 where none is said and none is there."""
    both, all_of_them = (said & truth).sum(1), said.sum(1) + truth.sum(1)
    f1: Values = np.where(all_of_them > 0, 2 * both / np.maximum(all_of_them, 1), 1.0)
    return f1


def paired_change(before: Values, after: Values) -> Interval:
    """The mean of `after` less that of `before`, of the same images, with its interval.

    That of Bonett and Price (2012), J. Educ. Behav. Stat. 37, 479-488, with one image added that gets wholly better and
    one that gets wholly worse; they have it for answers that are right or wrong, and here what lies between is allowed
    too. It keeps a width where few images change, or none, for which a bootstrap knows no others.
    """
    n = len(before)
    widened = np.append(after - before, [1.0, -1.0])
    value, half = float((after - before).mean()), _Z * float(widened.std()) / (n + 2) ** 0.5
    low, high = (float(np.clip(widened.mean() + sign * half, -1, 1)) for sign in (-1, 1))
    return Interval(value, min(value, low), max(value, high), n)


def _by_severity(name: str, words: str, severities: NDArray[np.int64], values: Values, clean: Values) -> Entry:
    scores = {str(level): values[severities == level].mean() for level in np.unique(severities)}
    return _entry_of(name, words, scores, values, clean)


def _by_setting(name: str, words: str, settings: Mapping[str, Values], clean: Values) -> Entry:
    scores = {setting: values.mean() for setting, values in settings.items()}
    return _entry_of(name, words, scores, np.mean(list(settings.values()), axis=0), clean)


def _entry_of(name: str, words: str, scores: Mapping[str, Any], each: Values, clean: Values) -> Entry:
    """`each`: (N,) every image in the settings that it got, on average."""
    change = paired_change(clean, each)
    return Entry(name, words, tuple(scores), tuple(map(float, scores.values())), wilson_bounded(each), change)


def _ratio(each: Values, clean: Values) -> Interval | None:
    """Mean of one as a share of the mean of the other, with the quantiles of images drawn again."""
    if not clean.any():
        return None

    def ratio(drawn: NDArray[np.int32]) -> NDArray[np.float64]:
        below = clean @ drawn
        ratios: NDArray[np.float64] = np.divide(each @ drawn, below, out=np.full(len(below), np.nan), where=below > 0)
        return ratios

    value = float(each.sum() / clean.sum())
    low, high = np.nanquantile(redraw(ratio, len(clean), seed=SEED, rounds=1000), [0.025, 0.975])
    return Interval(value, float(min(low, value)), float(max(high, value)), len(clean))


def _entry(content: Mapping[str, Any]) -> Entry:
    changes: dict[str, Any] = {key: tuple(content[key]) for key in ("settings", "scores")}
    changes |= {key: Interval(**content[key]) for key in ("score", "change")}
    return Entry(content["name"], content["words"], **changes)
