"""Scores of predictions, and the embeddings' own measures. Everything takes arrays and returns numbers."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray


def confusion(truth: NDArray, predicted: NDArray, classes: list[str]) -> NDArray[np.int64]:
    """(k, k) counts, rows the truth, columns the prediction; predictions that are no class count in no column."""
    index = {name: number for number, name in enumerate(classes)}
    out = np.zeros((len(classes), len(classes)), np.int64)
    for true, guess in zip(truth, predicted, strict=True):
        if guess in index:
            out[index[true], index[guess]] += 1
    return out


def recalls(truth: NDArray, predicted: NDArray) -> dict[str, float]:
    """(n,) labels, (n,) guesses -> share of each class that was found; a prediction of None or '' is wrong."""
    return {str(name): float(np.mean(predicted[truth == name] == name)) for name in np.unique(truth)}


def balanced_accuracy(truth: NDArray, predicted: NDArray) -> float:
    """(n,) labels, (n,) guesses -> mean recall over the classes that occur; NaN without items."""
    recall = recalls(truth, predicted)
    return float(np.mean(list(recall.values()))) if recall else float("nan")


def macro_f1(truth: NDArray, predicted: NDArray) -> float:
    """(n,) labels, (n,) guesses -> mean over the classes that occur of 2 tp / (2 tp + fp + fn)."""
    scores = []
    for name in np.unique(truth):
        hit = np.sum((truth == name) & (predicted == name))
        scores.append(2 * hit / max(1, np.sum(truth == name) + np.sum(predicted == name)))
    return float(np.mean(scores)) if scores else float("nan")


def auc(truth: NDArray, probability: NDArray[np.float64], classes: list[str]) -> float:
    """(n,) labels, (n, classes) -> mean one-against-rest area under the ROC; NaN with fewer than two classes."""
    from sklearn.metrics import roc_auc_score

    present = [number for number, name in enumerate(classes) if (truth == name).any() and (truth != name).any()]
    if not present:
        return float("nan")
    return float(np.mean([roc_auc_score(truth == classes[number], probability[:, number]) for number in present]))


def calibration_error(correct: NDArray[np.bool_], confidence: NDArray[np.float64], bins: int = 10) -> float:
    """(n,) hits, (n,) in 0..1 -> expected calibration error (Guo et al. 2017).

    The mean gap of confidence and hit rate over bins of equal width, each counting by its rows.
    """
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].sum() - correct[which == b].sum()) for b in np.unique(which)]
    return float(sum(gaps) / max(1, len(correct)))


def effective_rank(features: NDArray[np.float32]) -> float:
    """(n, d): exp of the entropy of the normalised singular values of the centred features (Roy and Vetterli 2007)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False).astype(np.float64)
    share = values / values.sum() if values.sum() > 0 else np.ones_like(values) / len(values)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def knn_predict(train: NDArray, labels: NDArray, test: NDArray, k: int = 10) -> NDArray:
    """(n, d), (n,) labels, (m, d) -> (m,) labels by the k nearest rows in cosine distance, weighted by similarity."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(k, len(train)), metric="cosine", weights=lambda distance: 1.001 - distance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # many classes of few items each, as sources are
        return model.fit(train, labels).predict(test)
