"""What is said of spoiled images is what the answers say by hand, with intervals that are paired and hold the truth."""

import json

import numpy as np
import pytest

from linnaeus.metrics.compare import compare_answers
from linnaeus.metrics.intervals import bootstrap_mean, wilson, wilson_bounded
from linnaeus.metrics.robustness import Robustness, _ratio, image_f1, paired_change, summarize_versions

ABOUT = {"measure": "accuracy", "images": "all test images", "seed": 0}


def summarize(clean=None, noise=None):
    clean = np.array([1.0, 1, 1, 1, 0]) if clean is None else clean
    noise = np.array([1.0, 0, 1, 0, 0]) if noise is None else noise
    levels = np.arange(1, 6)
    corrupted = {("noise", "grain"): (levels, noise), ("haze", "fog"): (levels, clean)}
    varied = {("crop", "less seen"): {"90%": clean, "50%": noise}}
    return summarize_versions(clean, np.ones(5), corrupted, varied, about=ABOUT)


def test_the_figures_are_those_of_the_answers():
    found = summarize()
    assert found.clean.value == pytest.approx(0.8)
    assert found.mean.value == pytest.approx((0.4 + 0.8) / 2)
    assert found.relative.value == pytest.approx(0.6 / 0.8)
    assert found.worst.name == "noise"
    noise, haze = found.corruptions
    assert noise.scores == (1, 0, 1, 0, 0)
    assert noise.settings == ("1", "2", "3", "4", "5")
    assert noise.change.value == pytest.approx(-0.4)
    assert haze.change.value == 0
    assert haze.change.high == -haze.change.low > 0  # five images that do not change prove little
    assert found.sensitivities[0].scores == pytest.approx((0.8, 0.4))
    assert found.sensitivities[0].score.value == pytest.approx(0.6)
    assert found.flip_gain.value == pytest.approx(0.2)


def test_json_reads_back_as_it_was():
    found = summarize()
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["worst"] == "noise"
    assert Robustness.from_json(content) == found


def test_a_model_that_is_always_wrong_has_no_share_to_lose():
    found = summarize(np.zeros(5), np.zeros(5))
    assert found.relative is None
    json.dumps(found.to_json(), allow_nan=False)


def test_the_interval_of_zeros_and_ones_is_wilsons():
    assert wilson_bounded(np.array([1.0, 1, 0])) == wilson(2, 3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_bounded(np.array([1.2]))


def test_the_interval_of_the_share_covers_the_truth():
    """Images that are each right with a chance of their own, in two versions that have much in common."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(150):
        clean = (rng.random(120) < rng.beta(4, 1, 120)).astype(float)
        found = _ratio(clean * (rng.random(120) < 0.75), clean)
        held += found.low <= 0.75 <= found.high
    assert 135 <= held <= 149


def test_the_change_of_answers_is_as_two_models_are_compared():
    rng = np.random.default_rng(0)
    first, second = rng.random(80) < 0.9, rng.random(80) < 0.8
    found = paired_change(first.astype(float), second.astype(float))
    expected = compare_answers(first, second).difference
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_change_covers_the_truth_where_few_images_change():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        after = (rng.random(60) > 0.02).astype(float)
        found = paired_change(np.ones(60), after)
        held += found.low <= -0.02 <= found.high
        assert -1 <= found.low <= found.value <= found.high <= 1
    assert held >= 370


def test_a_mean_of_rare_values_has_a_finite_interval():
    """Rounds that draw none of them have no spread, and rounding must not make one."""
    found = bootstrap_mean(np.append(np.zeros(38), [-1.0, -1.0]), seed=2026)
    assert -1 < found.low < found.value < found.high


def test_f1_of_an_image():
    said = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    truth = np.array([[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 1]], bool)
    assert image_f1(said, truth).tolist() == [0.5, 1.0, 0.0, 1.0]
