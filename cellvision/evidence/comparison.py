"""Arms of an ablation compared: pooled over seeds, paired over units, with what other seeds would have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellvision.evidence import intervals
from cellvision.evidence.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd


def pool(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a key: the share of seeds that got it right."""
    rows = rows.assign(correct=(rows["truth"] == rows["predicted"]).astype(float))
    return rows.groupby(["key", "unit", "truth"], as_index=False)["correct"].mean()


def score(rows: pd.DataFrame) -> Interval:
    """Pooled rows -> their balanced accuracy."""
    return intervals.balanced_accuracy(*(rows[name].to_numpy() for name in ("unit", "truth", "correct")))


def dealt_by_lot(label: NDArray, unit: NDArray, rng: np.random.Generator) -> NDArray:
    """(n,) labels as they would be without signal: those of whole units change places, else those within each unit.

    Labels that never differ within a unit are dealt to the (n,) units anew. Where they do, rows of a unit exchange
    them, and what units have in common with their labels stays.
    """
    rows = np.unique(unit, return_inverse=True)[1]
    first = label[np.unique(rows, return_index=True)[1]]
    if (first[rows] == label).all():
        return rng.permutation(first)[rows]
    order = np.lexsort((rng.random(len(rows)), rows))
    out = label.copy()
    out[np.argsort(rows, kind="stable")] = label[order]
    return out


class Seeds(NamedTuple):
    """How much another seed changes the balanced accuracy of an arm, from all arms that were trained several times."""

    variance: float
    freedom: int  # degrees of
    trained: dict[str, int]  # seeds of each arm; of plain models none

    def of_mean(self, arm: str) -> float:
        """Variance that the choice of seeds leaves in an arm's mean."""
        return self.variance / self.trained[arm] if self.trained.get(arm) else 0.0


def seeds_of(scored: pd.DataFrame) -> Seeds:
    """Scored rows of all trained arms, folds and seeds (arm, seed, truth, predicted) -> what seeds change."""
    correct = scored["truth"] == scored["predicted"]
    recall = correct.groupby([scored[name] for name in ("arm", "seed", "truth")]).mean()
    score = recall.groupby(["arm", "seed"]).mean()
    count = score.groupby("arm").size()
    freedom = int((count - 1).sum())
    squares = float(((score - score.groupby("arm").transform("mean")) ** 2).sum())
    return Seeds(squares / freedom if freedom else 0.0, freedom, {str(arm): int(size) for arm, size in count.items()})


def difference(a: pd.DataFrame, b: pd.DataFrame, seeds: Seeds, names: tuple[str, str]) -> Interval:
    """Balanced accuracy of arm a minus that of b, pooled over seeds, paired over units; `names` are the arms'.

    Rows that one of them alone has are left out. What other seeds would change is in the interval.
    """
    pairs = a.merge(b, on=["key", "unit", "truth"], suffixes=("_a", "_b"), validate="one_to_one")
    unit, truth, first, second = (pairs[name].to_numpy() for name in ("unit", "truth", "correct_a", "correct_b"))
    return intervals.paired_difference(
        unit,
        truth,
        first,
        second,
        seed_variance=sum(map(seeds.of_mean, names)),
        seed_freedom=seeds.freedom,
    )
