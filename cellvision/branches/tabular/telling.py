"""Columns that may know the class without having measured anything: an order, an id, the code of a place or a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

PURE = 0.99  # share of rows whose class the column tells alone
CLASSES = 50  # of more, a target is a quantity
LEAST = 3  # rows that a code stands for on average
ADVICE = "if it is an id, a code or an order, leave it out with branch.exclude"


def stamps(features: pd.DataFrame, labels: pd.DataFrame, reserved: tuple[str, ...]) -> Iterator[str]:
    """A line for each feature that looks like an id, an order or a code and alone tells the target, which stands first.

    labels: the target and the unit of each row.
    """
    target = reserved[0] if reserved else ""
    if target not in labels:
        return
    present = labels[target].notna().to_numpy()
    names, code = np.unique(labels[target][present].astype(str), return_inverse=True)
    if not 1 < len(names) <= CLASSES:
        return
    unit = next((labels[name][present].astype(str).to_numpy() for name in reserved[1:] if name in labels), None)
    for name in features:
        values = features[name].to_numpy(np.float64, na_value=np.nan)[present]
        if np.isfinite(values).all() and (what := looks_like(values, unit)):
            share = told(values, code) if what == "a code" else told_in_order(values, code)
            if share >= PURE:
                yield f"column {name!r} looks like {what} and alone tells {target!r} of {share:.0%} of rows; {ADVICE}"


def looks_like(values: NDArray[np.float64], unit: NDArray[np.str_] | None) -> str:
    """What (n,) values may be instead of a measurement; (n,) units, where they are named. Empty for none of it."""
    distinct = np.unique(values)
    steps = np.diff(values)
    if len(distinct) == 1:
        return ""
    if (steps >= 0).all() or (steps <= 0).all():
        return "an order"
    if not (values == np.round(values)).all():
        return ""
    if len(distinct) == len(values):
        return "an id"
    if unit is not None:
        pairs = len({*zip(unit.tolist(), values.tolist(), strict=True)})
        return "a code" if pairs == len(np.unique(unit)) and len(distinct) > 1 else ""
    return ""


def told(values: NDArray[np.float64], code: NDArray[np.int64]) -> float:
    """Share of (n,) rows whose class, an (n,) number, is the commonest one of their value; values must be shared."""
    _, value = np.unique(values, return_inverse=True)
    tally = np.zeros((value.max() + 1, code.max() + 1), np.int64)
    np.add.at(tally, (value, code), 1)
    return float(tally.max(1).sum() / len(values)) if len(values) >= LEAST * len(tally) else 0.0


def told_in_order(values: NDArray[np.float64], code: NDArray[np.int64]) -> float:
    """Share of (n,) rows that stand, sorted by value, in the longest stretch of their class: one cut a class."""
    order = np.argsort(values, kind="stable")
    sorted_code = code[order]
    begins = np.flatnonzero(np.diff(sorted_code, prepend=-1))
    length = np.diff(np.append(begins, len(code)))
    longest = {int(number): 0 for number in np.unique(code)}
    for begin, size in zip(begins, length, strict=True):
        longest[int(sorted_code[begin])] = max(longest[int(sorted_code[begin])], int(size))
    return sum(longest.values()) / len(code)
