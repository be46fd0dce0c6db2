"""Label maps against label maps: average precision, F1 and count error, as Cellpose and the Data Science Bowl do.

A predicted cell and a true one match when their intersection over union reaches a threshold; above 0.5 a cell can match
only one other. AP is TP / (TP + FP + FN) (Stringer et al. 2021, Nature Methods 18, 100).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = (0.5, 0.75, 0.9)  # of the intersection over union; none below 0.5, see `matches`
DENSE = 1 << 22  # counters, up to which counting is quicker than sorting


def pairs(truth: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[NDArray[np.float64], int, int]:
    """(H, W) label maps -> pairs that overlap, rows of (true label, found label, IoU); counts of true and found."""
    if truth.shape != found.shape:
        raise ValueError(f"label maps of {truth.shape} and {found.shape} pixels cannot be compared")
    names_true, area_true = _counted(truth[truth > 0])
    names_found, area_found = _counted(found[found > 0])
    shared = (truth > 0) & (found > 0)
    row, column = np.searchsorted(names_true, truth[shared]), np.searchsorted(names_found, found[shared])
    key, overlap = _counted(row * max(1, len(names_found)) + column)
    row, column = np.divmod(key, max(1, len(names_found)))
    iou = overlap / (area_true[row] + area_found[column] - overlap)
    return np.stack([names_true[row], names_found[column], iou], 1), len(names_true), len(names_found)


def _counted(values: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) whole numbers from 0 -> those that occur, sorted, and how often."""
    if values.max(initial=0) < DENSE:
        counts = np.bincount(values)
        names = np.flatnonzero(counts)
        return names.astype(np.int64), counts[names].astype(np.int64)
    names, counts = np.unique(values, return_counts=True)
    return names.astype(np.int64), counts.astype(np.int64)


def matches(table: NDArray[np.float64], threshold: float) -> int:
    """How many cells have a partner, one to one, at an IoU of `threshold`, 0.5 or more, or better.

    table: (n, 3) of `pairs`: true label, found label, IoU.
    Only at exactly 0.5 can a cell have two candidates (its two halves). Pairs then form stars, of which each gives one
    match, and a forest has as many trees as it has nodes more than edges.
    """
    good = table[table[:, 2] >= threshold]
    return len(np.unique(good[:, 0])) + len(np.unique(good[:, 1])) - len(good)


def score(truth: NDArray[np.integer], found: NDArray[np.integer]) -> dict[str, float]:
    """(H, W) label maps of one image -> n_true, n_found, and hits, ap and f1 at each threshold.

    Where neither holds a cell, ap and f1 are 1.
    """
    table, n_true, n_found = pairs(truth, found)
    out: dict[str, float] = {"n_true": n_true, "n_found": n_found}
    for threshold in THRESHOLDS:
        hits = matches(table, threshold)
        union = n_true + n_found - hits
        name = f"{round(100 * threshold)}"
        out[f"hits_{name}"] = hits
        out[f"ap_{name}"] = hits / union if union else 1.0
        out[f"f1_{name}"] = 2 * hits / (n_true + n_found) if union else 1.0
    return out


def summarise(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means over images of AP and F1; images, cells, and the error of the count over all: |found - true| / true."""
    table = list(rows)
    out: dict[str, Any] = {"images": len(table), "cells": int(sum(row["n_true"] for row in table))}
    for threshold in THRESHOLDS:
        for what in ("ap", "f1"):
            name = f"{what}_{round(100 * threshold)}"
            out[name] = float(np.mean([row[name] for row in table])) if table else float("nan")
    wrong = sum(abs(row["n_found"] - row["n_true"]) for row in table)
    return out | {"count_error": wrong / max(1, out["cells"])}
