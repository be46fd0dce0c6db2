"""Plain models: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from cellvision.evidence import baselines, metrics


def test_ridge_separates_and_its_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    features = (rng.normal(size=(90, 5)) + 3 * np.eye(3, 5)[label]).astype(np.float32)
    found = baselines.fit_predict(baselines.estimator("ridge", 0), features, label, features, 3)
    assert (found.argmax(1) == label).mean() > 0.9
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    two = baselines.fit_predict(baselines.estimator("ridge", 0), features, label % 2, features, 2)
    np.testing.assert_allclose(two.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["logistic", "forest", "boosting"])
def test_baselines_learn_an_easy_table_with_gaps(kind: str) -> None:
    rng = np.random.default_rng(0)
    label = np.where(np.arange(400) % 2, 2, 0)
    features = rng.normal(size=(400, 4)).astype(np.float32)
    features[:, 0] += 2 * label
    features[rng.random((400, 4)) < 0.1] = np.nan
    found = baselines.fit_predict(baselines.estimator(kind, 0, 1), features[:200], label[:200], features[200:], 3)
    assert (found[:, 1] == 0).all(), "a class without training rows"
    assert metrics.balanced_accuracy(label[200:], found.argmax(1)) > 0.85
