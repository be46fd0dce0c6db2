"""A supervised problem: items, folds and a target, and which rows train and test in each fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.core.rng import generator
from cellvision.evidence import splits

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches import Branch
    from cellvision.evidence.splits import Splits
    from cellvision.evidence.targets import Target


class Supervised:
    """Rows are positions in the items table; fold None means that everything trains and nothing is tested."""

    def __init__(
        self, branch: Branch, made: Splits, target: Target, fold: str, seed: int, label_fraction: float = 1.0
    ) -> None:
        self.branch, self.made, self.target = branch, made, target
        self.seed, self.label_fraction = seed, label_fraction
        self.items = branch.items
        self.fold = made.fold_of(self.items)
        self.unit = made.unit_of(self.items)
        self.folds = splits.test_folds(made, fold)

    def train_rows(self, fold: int | None) -> NDArray[np.int64]:
        """Labelled items outside the fold; with a label fraction, of that share of the units of each class."""
        labelled = self.target.label >= 0
        rows = np.flatnonzero(labelled if fold is None else labelled & (self.fold != fold))
        if self.label_fraction < 1:
            rows = rows[np.isin(self.unit[rows], self._labelled_units(rows, fold))]
        return rows

    def _labelled_units(self, rows: NDArray[np.int64], fold: int | None) -> list[str]:
        """A nested choice: a larger fraction holds every unit of a smaller one; each class keeps at least one."""
        units, first = np.unique(self.unit[rows], return_index=True)
        home = self.target.label[rows][first]
        order = generator(self.seed, "label fraction", fold).permutation(len(units))
        kept: list[str] = []
        for number in np.unique(home):
            members = [str(units[at]) for at in order if home[at] == number]
            kept += members[: max(1, round(self.label_fraction * len(members)))]
        return kept

    def test_rows(self, fold: int) -> NDArray[np.int64]:
        return np.flatnonzero((self.target.label >= 0) & (self.fold == fold))

    def bags(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
        """(n,) number of each row's source, from 0, and the sources' ids in that order."""
        names, bag = np.unique(self.items.table["source_id"].iloc[rows].to_numpy(str), return_inverse=True)
        return bag.astype(np.int64), names

    def identity(self, rows: NDArray[np.int64]) -> pd.DataFrame:
        """(n,) rows -> the columns that say whose prediction each is, with its true label where one was given."""
        names = [name for name in ("item_id", "source_id", "annotation") if name in self.items.table]
        return self.items.table[names].iloc[rows].assign(unit=self.unit[rows])

    def evaluated(self) -> set[str]:
        """Classes whose units stand in at least two folds, so that some can train while others test."""
        labelled = self.target.label >= 0
        pairs = np.unique(np.stack([self.target.label[labelled], self.fold[labelled]], 1), axis=0)
        folds = np.bincount(pairs[:, 0], minlength=len(self.target.classes))
        return {name for name, count in zip(self.target.classes, folds, strict=True) if count >= 2}

    def missed(self) -> pd.DataFrame:
        """Annotations without an item, in the sources of the tested folds, with their unit."""
        table = self.made.table[self.made.table["fold"].isin(self.folds)][["source_id", "unit"]]
        keys = [f"missed-{number}" for number in range(len(self.items.missed))]
        return self.items.missed.assign(key=keys).merge(table, on="source_id")
