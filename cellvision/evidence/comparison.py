"""Arms of an ablation compared: pooled over seeds, paired over units, with what other seeds would have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellvision.evidence import intervals
from cellvision.evidence.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline: "  # before the names of arms that are plain models


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


def compare(
    results: pd.DataFrame, scored: pd.DataFrame, labelled: pd.DataFrame, reference: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Arms by balanced accuracy with an interval over units; differences to the reference, paired over units.

    labelled: rows of single items with a true label, as `scored` has rows.
    """
    import pandas as pd

    pooled, cells = (
        {str(arm): pool(rows) for arm, rows in table.groupby("arm", sort=False)} for table in (scored, labelled)
    )
    summary: list[dict[str, Any]] = []
    for arm, rows in pooled.items():
        interval = score(rows)
        children = results[(results["arm"] == arm) & (results["status"] == "ok")]
        by_seed = children.groupby("seed")["balanced_accuracy"].mean() if len(children) else None
        summary.append({
            "arm": arm, **interval.flat("balanced_accuracy"), "units": interval.units, "scored": len(rows),
            "status": "ok",
            "sd_over_seeds": float(by_seed.std()) if by_seed is not None and len(by_seed) > 1 else None,
            "steps_total": float(children["steps_total"].mean()) if len(children) else None,
            **(score(cells[arm]).flat("cell_accuracy") if arm in cells else {}),
            **absolute_error(scored[scored["arm"] == arm]),
        })  # fmt: skip
    refused = results[results["status"] != "ok"].drop_duplicates("arm")
    summary += [{"arm": row.arm, "status": f"refused: {row.reason}"} for row in refused.itertuples()]
    seeds = seeds_of(scored[~scored["arm"].str.startswith(BASELINE)])
    differences = []
    for arm, rows in pooled.items():
        if reference in pooled and arm != reference:
            interval = difference(rows, pooled[reference], seeds, (arm, reference))
            differences.append({"arm": arm, "reference": reference, **interval.flat("difference")})
    columns = ["arm", "reference", *intervals.Interval(0, 0, 0, 0).flat("difference")]
    return pd.DataFrame(summary), pd.DataFrame(differences, columns=columns)


def absolute_error(rows: pd.DataFrame) -> dict[str, float | int]:
    """Mean absolute error over all seeds with its interval; nothing for labels that are not three or more numbers."""
    from cellvision.evidence import scoring, targets

    classes = set(rows["truth"])
    if len(classes) < 3 or targets.numbers(classes) is None:
        return {}
    return scoring.absolute_error(rows).flat("mean_absolute_error")
