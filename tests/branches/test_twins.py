"""Rows that stand in a table twice are found, and rows of coarse or dependent values are not taken for one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cellvision.branches import twins

Rows = NDArray[np.float64]
ROWS = 300


def noise(columns: int = 8, seed: int = 0, rows: int = ROWS) -> Rows:
    return np.random.default_rng(seed).normal(size=(rows, columns)) * 10.0 ** (np.arange(columns) % 4)


REPEATED: dict[str, Callable[[Rows], Rows]] = {
    "repeated": lambda rows: rows,
    "in single precision": lambda rows: rows.astype(np.float32).astype(np.float64),
    "rounded to three decimals": lambda rows: rows.round(3),
    "rounded to two decimals": lambda rows: rows.round(2),
    "with six digits": lambda rows: np.array([[float(f"{value:.6g}") for value in row] for row in rows]),
}


@pytest.mark.parametrize("change", REPEATED.values(), ids=REPEATED)
def test_repeated_and_rounded_rows_are_one(change: Callable[[Rows], Rows]) -> None:
    label = twins.of_rows(np.concatenate([noise(), change(noise()[:40])]))
    found = label[:40] >= 0
    assert found.mean() > 0.9  # a value that lies just between two rounded ones hides its row
    assert (label[:40] == label[ROWS:])[found].all()
    assert (label[40:ROWS] == -1).all()


def latent(columns: int) -> Rows:
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, 1)) * rng.normal(size=columns) + rng.normal(0, 0.02, (ROWS, columns))


HALF = np.arange(ROWS)[:, None] % 2 == 1
DIFFERENT: dict[str, Rows] = {
    "noise": noise(),
    "noise of two columns": noise(2),
    "rounded, every row": noise().round(2),
    "whole numbers": noise().round(0),
    "three values": np.clip(noise(5), -1, 1).round(0),
    "counts, mostly none": np.random.default_rng(0).poisson(0.05, (ROWS, 30)).astype(float),
    "one latent variable": latent(8),
    "one latent variable, many columns": latent(40).round(2),
    "one latent variable, half of the rows rounded": np.where(
        np.arange(ROWS)[:, None] % 2, latent(8).round(2), latent(8)
    ),
    "two columns, half of the rows rounded": np.where(np.arange(ROWS)[:, None] % 2, noise(2).round(1), noise(2)),
    "one row": noise()[:1],
    "constant": np.ones((ROWS, 4)),
    "nothing measured": np.full((ROWS, 4), np.nan),
}


@pytest.mark.parametrize("rows", DIFFERENT.values(), ids=DIFFERENT)
def test_different_rows_stay_apart(rows: Rows) -> None:
    assert (twins.of_rows(rows) == -1).all()
