"""Planted miscalibration is found and mended, and what is well calibrated, or too small to tell, is left alone."""

import numpy as np
import pytest
import torch

from linnaeus.metrics.calibrate import Calibration, fit_calibration, likelihoods
from linnaeus.metrics.probabilities import activate, calibrate, trust

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")


def plant(images, temperature, *, seed=0, classes=5, bias=0.0):
    """(N, K) logits that are `temperature` times too large, and truths drawn from what they were before."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((images, classes))
    own = logits + bias * np.arange(classes)
    shares = np.exp(own) / np.exp(own).sum(1, keepdims=True)
    labels = (rng.random((images, 1)) > shares.cumsum(1)).sum(1)
    return (temperature * logits).astype(np.float32), np.arange(classes) == labels[:, None]


def plant_several(images, temperature, seed=0):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((images, 4)) - 1
    return (temperature * logits).astype(np.float32), rng.random((images, 4)) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("planted", [0.4, 3.0])
@pytest.mark.parametrize(("make", "several"), [(plant, False), (plant_several, True)])
def test_a_planted_temperature_is_found_and_the_error_goes(make, several, planted):
    fitted = fit_calibration(*make(2000, planted), several=several)
    assert fitted.calibration.method == "temperature"
    assert fitted.calibration.temperature == pytest.approx(planted, rel=0.1)
    assert fitted.after < fitted.before
    logits, truths = make(4000, planted, seed=1)
    before = trust(logits, truths, several=several)
    after = trust(calibrate(logits, fitted.calibration), truths, several=several)
    assert before.calibration_error.low > 0.05 > 0.03 > after.calibration_error.value
    assert after.log_loss.value < before.log_loss.value
    assert after.brier.value < before.brier.value


def test_a_planted_bias_of_the_classes_takes_a_factor_and_an_offset_for_each():
    fitted = fit_calibration(*plant(3000, 1.0, bias=0.7), several=False)
    assert fitted.calibration.method == "vector"
    assert np.diff(fitted.calibration.bias) == pytest.approx(0.7, abs=0.3)
    logits, truths = plant(3000, 1.0, seed=1, bias=0.7)
    mended = likelihoods(calibrate(logits, fitted.calibration), truths, False).mean()
    assert mended < likelihoods(logits, truths, False).mean() - 0.05


def test_what_is_calibrated_stays_nearly_as_it_is():
    for seed in range(5):
        calibration = fit_calibration(*plant(1000, 1.0, seed=seed), several=False).calibration
        assert calibration.method in ("none", "temperature")
        assert calibration.temperature == pytest.approx(1, abs=0.12)


def test_a_calibration_is_taken_only_if_images_that_it_has_not_seen_become_likelier():
    for seed in range(30):
        fitted = fit_calibration(*plant(12, 1.0, seed=seed), several=False)
        assert fitted.after <= fitted.before
        assert (fitted.calibration == Calibration()) == (fitted.after == fitted.before)


def test_thirty_images_that_are_all_right_do_not_make_a_model_certain():
    logits = np.eye(3, dtype=np.float32).repeat(10, 0) * 4
    truths = np.eye(3, dtype=bool).repeat(10, 0)
    fitted = fit_calibration(logits, truths, several=False)
    assert activate(calibrate(logits, fitted.calibration), several=False).max() < 0.995


def test_few_images_and_one_image_are_borne():
    assert fit_calibration(*plant(1, 1.0), several=False).calibration == Calibration()
    assert fit_calibration(*plant(2, 3.0), several=False).n == 2


@pytest.mark.parametrize("calibration", [Calibration("temperature", 2.5), Calibration("vector", 1.0, (2, 3), (0, -1))])
def test_a_calibration_survives_its_file(calibration):
    assert Calibration.from_json(calibration.to_json()) == calibration
    logits = torch.tensor([[1.0, -2.0]])
    expected = logits / 2.5 if calibration.method == "temperature" else torch.tensor([[2.0, -7.0]])
    assert torch.equal(calibration.apply(logits), expected)


def test_log_loss_and_brier_are_those_of_scikit_learn():
    logits, truths = plant(300, 2.0)
    found, probabilities = trust(logits, truths, several=False), activate(logits, several=False).astype(np.float64)
    labels = truths.argmax(1)
    exact = probabilities / probabilities.sum(1, keepdims=True)
    assert found.log_loss.value == pytest.approx(metrics.log_loss(labels, exact), rel=1e-5)
    expected = metrics.brier_score_loss(labels, exact, scale_by_half=False)
    assert found.brier.value == pytest.approx(expected, rel=1e-5)
