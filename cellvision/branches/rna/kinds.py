"""What the values of a matrix are: counts, what was made of them, and the way from each to log counts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Kind = Literal["counts", "log1p", "log2", "normalised", "scaled"]
WHOLE = "values are raw counts"
LARGEST_LOG = 15.0  # logs of real data are smaller
LARGEST_UNNAMED_LOG = 20.0  # values up to here that fit nothing else are logs
NEAR = 0.9  # share of ratios that must be whole numbers for values to be scaled counts
MOSTLY_WHOLE = 0.5  # share of whole numbers from which on values are counts
SAME_TOTAL = 0.02  # relative deviation of the cells' totals below which they were made equal


def kind_of(sample: csr_matrix) -> tuple[Kind, str]:
    """What the values of some cells are, and the sentence that says so.

    Counts divided by their cell's total, logged or not, are whole multiples of the smallest value of the cell. Shares
    of a read or of a soup make counts that are not whole, but no cell's total is made that of another.
    """
    values = sample.data[np.isfinite(sample.data)]
    if (values < 0).any():
        if np.array_equal(values, np.round(values)):
            raise ConfigError("the matrix holds negative whole numbers; counts cannot be negative: mend the file")
        return "scaled", "values are already scaled (some are negative); used as they are, and no gene is binned"
    whole = values == np.round(values)
    if whole.all():
        return "counts", WHOLE
    if whole.mean() >= MOSTLY_WHOLE and not _near_whole(np.exp2(np.minimum(values[~whole], LARGEST_LOG)) - 1):
        return "counts", f"values are counts, {1 - whole.mean():.0%} of them not whole"
    logged = sample.copy()
    logged.data = np.where(sample.data < LARGEST_LOG, sample.data, 0).astype(np.float64)
    tries: tuple[tuple[Kind, Any, str], ...] = (
        ("log1p", np.expm1(logged.data), "values are already normalised: log1p of counts scaled per cell"),
        ("log2", np.exp2(logged.data) - 1, "values are already normalised: log2(1 + x) of counts scaled per cell"),
        ("normalised", sample.data, "values are already normalised, but not logged: counts scaled per cell"),
    )
    for kind, raw, sentence in tries:
        if whole_ratios(raw, sample.indptr) >= NEAR:
            return kind, sentence
    if values.max(initial=0) <= LARGEST_UNNAMED_LOG:
        return "log1p", "values are no counts and small: taken as already normalised and logged"
    total = np.asarray(sample.sum(1, dtype=np.float64)).ravel()
    if total.std() > SAME_TOTAL * total.mean():
        return "counts", f"values are counts, {1 - whole.mean():.0%} of them not whole"
    return "normalised", "values are no counts, and all cells have one total: taken as normalised, not logged"


def _near_whole(values: NDArray) -> bool:
    return bool((np.abs(values - np.round(values)) < 1e-3 * np.maximum(values, 1)).mean() >= NEAR)


def whole_ratios(raw: NDArray, start: NDArray) -> float:
    """Share of the small values whose ratio to the smallest of their cell is a whole number.

    raw: (nonzeros,) values; start: (cells + 1,) where each cell begins.
    """
    hits = total = 0
    for begin, end in itertools.pairwise(start):
        values = raw[begin:end][raw[begin:end] > 0]
        if len(values) >= 5:
            ratio = values / values.min()
            ratio = ratio[ratio < 20]
            hits += int((np.abs(ratio - np.round(ratio)) < 0.005 * ratio).sum())
            total += len(ratio)
    return hits / total if total else 0.0


def log_normalised(values: csr_matrix, kind: Kind, total: NDArray[np.float64], target_sum: float) -> csr_matrix:
    """(n, genes) values and (n,) totals -> natural log(1 + x) of counts per target_sum; zeros stay zeros."""
    out = values.astype(np.float32, copy=True)
    if kind == "counts":
        factor = target_sum / np.maximum(total, 1)
        out.data = np.log1p(out.data * np.repeat(factor, np.diff(out.indptr)).astype(np.float32))
    elif kind == "normalised":
        out.data = np.log1p(out.data)
    elif kind == "log2":
        out.data = out.data * np.float32(np.log(2))
    return out


def linear(values: csr_matrix, kind: Kind) -> csr_matrix:
    """(n, genes) values -> the same without their logarithm, so that shares of a cell's total can be taken."""
    out = values.astype(np.float64, copy=True)
    if kind == "log1p":
        out.data = np.expm1(np.minimum(out.data, LARGEST_LOG))
    elif kind == "log2":
        out.data = np.exp2(np.minimum(out.data, LARGEST_LOG)) - 1
    return out
