"""Plain models on plain features, fitted on training units: what every network has to beat."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


def estimator(kind: str, seed: int, threads: int | None = None) -> Any:
    """`logistic`: standardised, balanced logistic regression; `forest`: 500 balanced trees."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    if kind == "logistic":
        return make_pipeline(fill, StandardScaler(), LogisticRegression(C=1.0, max_iter=500, class_weight="balanced"))
    forest = RandomForestClassifier(
        500, class_weight="balanced_subsample", min_samples_leaf=2, random_state=seed % 2**32, n_jobs=threads or -1
    )
    return make_pipeline(fill, forest)


def fit_predict(
    kind: str,
    train: NDArray[np.float32],
    label: NDArray[np.int64],
    test: NDArray[np.float32],
    classes: int,
    seed: int,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """(n, d), (n,) labels, (m, d) -> (m, classes) probabilities; a class without training rows gets zeros."""
    model = estimator(kind, seed, threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence of a baseline is bounded on purpose
        model.fit(np.where(np.isfinite(train), train, np.nan), label)
    out = np.zeros((len(test), classes))
    out[:, model[-1].classes_] = model.predict_proba(np.where(np.isfinite(test), test, np.nan))
    return out


def item_random_folds(count: int, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,) folds that ignore units: only ever used to show how much that inflates a score."""
    return rng.permutation(np.arange(count) % max(folds, 2))
