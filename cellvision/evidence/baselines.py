"""Plain models on plain features, fitted on training units: what every network has to beat."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator, torch_seed
from cellvision.evidence import intervals, scoring

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches import Baseline, Branch
    from cellvision.evidence.problem import Supervised

TREES = 500  # of the forest
INFLATION_ITEMS = 2000  # items the item-random comparison is made on


def estimator(kind: str, seed: int, threads: int | None = None) -> Any:
    """A balanced pipeline of a kind in ESTIMATORS, unfitted. ConfigError for another kind."""
    if kind not in ESTIMATORS:
        raise ConfigError(f"no plain model named {kind!r}; known: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[kind](seed % 2**32, threads or -1)


def filled(*steps: Any) -> Any:
    """A pipeline that puts the training median where a value is missing."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def logistic(seed: int, threads: int) -> Any:
    """Logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    return filled(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))


def forest(seed: int, threads: int) -> Any:
    """Trees with five training items in a leaf at least."""
    from sklearn.ensemble import RandomForestClassifier

    settings = {"class_weight": "balanced", "min_samples_leaf": 5, "n_jobs": threads}
    return filled(RandomForestClassifier(TREES, random_state=seed, **settings))


def boosting(seed: int, threads: int) -> Any:
    """Boosted trees on histograms, which take missing values as they are."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    return make_pipeline(HistGradientBoostingClassifier(class_weight="balanced", random_state=seed))


def ridge(seed: int, threads: int) -> Any:
    """Ridge classifier on standardised features that chooses its penalty by leave-one-out.

    Probabilities are the softmax of its scores.
    """
    from scipy.special import softmax
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.preprocessing import StandardScaler

    class Ridge(RidgeClassifierCV):
        def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
            scores = self.decision_function(features)
            return softmax(scores if scores.ndim == 2 else np.stack([-scores, scores], 1), axis=1)

    return filled(StandardScaler(), Ridge(np.logspace(-3, 3, 10), class_weight="balanced"))


ESTIMATORS: dict[str, Callable[[int, int], Any]] = {
    "logistic": logistic,
    "ridge": ridge,
    "forest": forest,
    "boosting": boosting,
}


def fit_predict(
    model: Any, train: NDArray[np.float32], label: NDArray[np.int64], test: NDArray[np.float32], classes: int
) -> NDArray[np.float64]:
    """(n, d), (n,) labels, (m, d) -> (m, classes) probabilities; a class without training rows gets zeros."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence of a baseline is bounded on purpose
        model.fit(np.where(np.isfinite(train), train, np.nan), label)
    out = np.zeros((len(test), classes))
    out[:, model[-1].classes_] = model.predict_proba(np.where(np.isfinite(test), test, np.nan))
    return out


def write_all(problem: Supervised, out: Path, threads: int | None) -> dict[str, Path]:
    """name -> file with the scored rows of each plain baseline of the branch; one that is there is kept."""
    written = {}
    for name, baseline in problem.branch.baselines().items():
        written[name] = out / f"baseline-{name}.parquet"
        if not written[name].exists():
            files.write_parquet(written[name], scored_rows(problem, name, baseline, threads))
    return written


def shortcuts(branch: Branch) -> list[str]:
    """Names of the branch's plain models that do not see what the classes should be about."""
    return [name for name, baseline in branch.baselines().items() if baseline.shortcut]


def scored_rows(problem: Supervised, name: str, baseline: Baseline, threads: int | None) -> pd.DataFrame:
    """Fit on training units and predict the rest, fold by fold."""
    import pandas as pd

    target = problem.target
    every = np.flatnonzero(target.label >= 0)
    values = baseline.features(every)
    features = np.zeros((len(target.label), values.shape[1]), np.float32)
    features[every] = values
    parts = []
    for fold in problem.folds:
        train, test = problem.train_rows(fold), problem.test_rows(fold)
        model = estimator(baseline.estimator, torch_seed(problem.seed, name, fold), threads)
        probability = fit_predict(model, features[train], target.label[train], features[test], len(target.classes))
        parts.append(scoring.predictions(problem.identity(test), probability, target.classes, target.text(test)))
    items = pd.concat(parts, ignore_index=True)
    return scoring.scored_rows(problem, items, scoring.of_sources(items, target.classes))


def inflation_rows(problem: Supervised) -> NDArray[np.int64]:
    """Labelled items of tested folds, a sample of INFLATION_ITEMS where there are more."""
    rows = np.flatnonzero((problem.target.label >= 0) & (problem.fold >= 0))
    return np.sort(generator(problem.seed, "inflation").permutation(rows)[:INFLATION_ITEMS])


def inflation(
    problem: Supervised, rows: NDArray[np.int64], features_of: Callable[[int], NDArray[np.float32]]
) -> dict[str, float | int]:
    """One linear probe on frozen features, tested on unseen units and on random items: the gap is the inflation.

    rows: (n,) positions in the items table; features_of: fold -> (n, d), by the encoder and the preprocessing that have
    not seen that fold. All are balanced accuracies over items, with intervals over units.
    """
    label, unit, by_unit = problem.target.label[rows], problem.unit[rows], problem.fold[rows]
    folds = np.unique(by_unit)
    by_item = folds[generator(problem.seed, "item-random folds").permutation(np.arange(len(rows)) % len(folds))]
    unseen, random = np.zeros(len(rows)), np.zeros(len(rows))
    for fold in folds:
        features = features_of(int(fold))
        for hits, dealt in ((unseen, by_unit), (random, by_item)):
            hits[dealt == fold] = _probe(features, label, dealt == fold)
    truth = label.astype(str)
    return {
        "probe_items": len(rows),
        **intervals.balanced_accuracy(unit, truth, unseen).flat("probe_unit_out"),
        **intervals.balanced_accuracy(unit, truth, random).flat("probe_item_random"),
        **intervals.paired_difference(unit, truth, random, unseen).flat("inflation"),
    }


def _probe(features: NDArray[np.float32], label: NDArray[np.int64], test: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, d), (n,), (n,) rows to test -> whether a linear probe of the other rows gets each of them right."""
    if len(np.unique(label[~test])) < 2:
        return np.zeros(int(test.sum()), bool)
    guess = fit_predict(estimator("logistic", 0), features[~test], label[~test], features[test], int(label.max()) + 1)
    return guess.argmax(1) == label[test]
