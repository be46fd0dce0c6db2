"""Scores: known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cellvision.evidence import metrics


def test_effective_rank_counts_directions() -> None:
    assert metrics.effective_rank(np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)) == pytest.approx(
        8, rel=1e-5
    )
    line = np.outer(np.arange(20), np.ones(8)).astype(np.float32)
    assert metrics.effective_rank(line) == pytest.approx(1, abs=1e-3)


def test_macro_f1_of_a_known_table() -> None:
    truth, guess = np.array(list("aaab")), np.array(list("aabb"))
    assert metrics.macro_f1(truth, guess) == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)
    assert metrics.balanced_accuracy(truth, guess) == pytest.approx((2 / 3 + 1) / 2)


def test_confusion_has_the_truth_in_rows() -> None:
    assert metrics.confusion(np.array(list("aab")), np.array(["a", "b", ""]), ["a", "b"]).tolist() == [[1, 1], [0, 0]]


def test_auc_and_calibration_of_known_answers() -> None:
    truth = np.array(list("aabb"))
    sure = np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]])
    assert metrics.auc(truth, sure, ["a", "b"]) == 1
    assert metrics.auc(truth, sure[::-1], ["a", "b"]) == 0
    assert math.isnan(metrics.auc(truth[:2], sure[:2], ["a", "b"]))
    assert metrics.calibration_error(np.array([True, False]), np.array([1.0, 1.0])) == pytest.approx(0.5)
    assert metrics.calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == pytest.approx(0)


def test_knn_votes_by_similarity() -> None:
    train = np.array([[1, 0], [0.9, 0.1], [0, 1.0]])
    assert list(metrics.knn_predict(train, np.array(list("aab")), np.array([[2, 0], [0, 0.1]]), k=1)) == ["a", "b"]
