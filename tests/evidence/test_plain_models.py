"""Plain models: each kind by its name, an unknown one is an error."""

from __future__ import annotations

import pytest

from cellvision.core.errors import ConfigError
from cellvision.evidence import baselines


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("logistic", "LogisticRegression"),
        ("ridge", "Ridge"),
        ("forest", "RandomForestClassifier"),
        ("boosting", "HistGradientBoostingClassifier"),
    ],
)
def test_each_kind_is_the_model_of_its_name(kind: str, last: str) -> None:
    assert type(baselines.estimator(kind, 0, 1)[-1]).__name__ == last
    assert kind in baselines.ESTIMATORS


def test_an_unknown_kind_is_no_forest() -> None:
    with pytest.raises(ConfigError, match="no plain model named 'foo'; known: logistic, ridge, forest, boosting"):
        baselines.estimator("foo", 0)
