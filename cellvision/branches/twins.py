"""Rows that stand in a table twice, repeated or rounded: whatever unit they name, they are no independent examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.signatures import mixed
from cellvision.io.components import linked

DECIMALS = (5, 4, 3, 2, 1)  # to which a copy may be rounded
DIGITS = (6, 5, 4)  # in which rows agree that are the same, in single or double precision, or rounded
NEAR = 1e-6  # of a rounded value, which single precision moves
BINS = 64  # of a column's values, in which their density is estimated
RANGE = (1, 99)  # percentiles of a column that the bins cover
DEPENDENT = 3  # columns that go together count as one
UNLIKELY = 0.01  # pairs of different rows that may agree in everything, by chance


def of_rows(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n, d) values -> (n,) numbers of sets of rows that are one, -1 for a row that stands alone.

    Rows are one where they agree to single precision, or where one of them is the other, rounded; and where the columns
    are so many and so fine that different rows do not agree by chance.
    """
    count, columns = values.shape
    pairs = [np.zeros((2, 0), np.int64)]
    if count > 1 and columns:
        whole = np.where(np.isfinite(values), values, 0.0)
        density = densities(whole)
        size = np.median(np.abs(whole), axis=0)
        for digits in DIGITS:
            if telling(whole, density, 10.0**-digits * np.where(size > 0, size, 1)):
                pairs.append(equal(significant(whole, digits)))
        for places in DECIMALS:
            rounded = np.rint(whole * 10.0**places)
            close = np.isclose(whole * 10.0**places, rounded, rtol=NEAR, atol=NEAR)
            is_rounded = np.asarray(close.all(1))
            if is_rounded.any() and not is_rounded.all() and telling(rounded, density, np.full(columns, 10.0**-places)):
                both = equal(rounded)
                pairs.append(both[:, is_rounded[both[0]] | is_rounded[both[1]]])
    first, second = np.concatenate(pairs, axis=1)
    label = linked(first, second, count)
    return np.where(np.bincount(label, minlength=count)[label] > 1, label, -1)


def significant(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """(n, …) -> (n, …), rounded to so many digits."""
    size = np.floor(np.log10(np.where(values != 0, np.abs(values), 1)))
    return np.rint(values * 10.0 ** (digits - 1 - size)) * 10.0 ** (size + 1 - digits)


def densities(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, d) -> (d,) chance that two values of a column lie within a step, for each unit of the step's length."""
    low, high = np.percentile(values, RANGE, axis=0)
    width = np.where(high > low, (high - low) / BINS, 1.0)
    bins = np.clip((values - low) / width, -1, BINS).astype(np.int64)
    together = [np.sum((np.bincount(column + 1, minlength=BINS + 2) / len(values)) ** 2) for column in bins.T]
    return np.array(together) / width


def telling(values: NDArray[np.float64], density: NDArray[np.float64], steps: NDArray[np.float64]) -> bool:
    """Whether (n, d) values in steps (d,) are fine enough that no two different rows agree; density: (d,)."""
    count = len(values)
    repeated = np.array([np.sum((np.unique(column, return_counts=True)[1] / count) ** 2) for column in values.T])
    chance = np.clip(np.maximum(density * steps, repeated - 2 / count), 1e-12, 1.0)
    return bool(-np.log(chance).sum() / DEPENDENT > np.log(count**2 / 2 / UNLIKELY))


def equal(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n, d) -> (2, pairs) each row that is equal to one before it, and the first of them."""
    plain = np.ascontiguousarray(values + 0.0)  # no negative zero
    place = mixed(np.arange(values.shape[1], dtype=np.uint64))
    key = mixed(plain.view(np.uint64) ^ place).sum(1, dtype=np.uint64)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    rows = np.arange(len(values))
    return np.stack([first[group], rows])[:, first[group] != rows]
