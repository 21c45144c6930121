"""The closed form agrees with fits that leave one image out, one at a time, and with scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from linnaeus.engine.ridge import STRENGTHS, fit_ridge


def problem(n, d, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, d)) * rng.uniform(0.5, 2, d) + 3
    return features, np.arange(3) == (features @ rng.standard_normal((d, 3))).argmax(1)[:, None]


def penalty(features, strength):
    centred = features - features.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    return strength * values[values > 1e-9 * values[-1]].mean()


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 50)])
def test_it_is_ridge_regression_at_the_strength_that_leaving_one_out_chooses(n, d):
    features, truths = problem(n, d)
    found = fit_ridge(features, truths)
    errors = []
    for strength in STRENGTHS:
        wrong = 0.0
        for left in range(n):
            rest = np.arange(n) != left
            # One factor for all folds, as the closed form has it.
            model = Reference(alpha=penalty(features, strength)).fit(features[rest], truths[rest].astype(float))
            wrong += ((model.predict(features[[left]]) - truths[left]) ** 2).sum()
        errors.append(wrong)
    assert found.strength == STRENGTHS[int(np.argmin(errors))]
    model = Reference(alpha=penalty(features, found.strength)).fit(features, truths.astype(float))
    np.testing.assert_allclose(found.scores(features), model.predict(features), atol=1e-8)
