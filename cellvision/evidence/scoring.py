"""From predictions to numbers: every score at the level where its label is true, with units and an interval.

Scored rows are what is compared: one row a source or an item, with key, unit, truth and predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.evidence import intervals, metrics

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.evidence.problem import Supervised
    from cellvision.evidence.targets import Target

PROBABILITY = "p_"
FEW_UNITS = 5  # of equal weight, below which a score says what its class with least rests on


def predictions(
    table: pd.DataFrame, probability: NDArray[np.float64], classes: tuple[str, ...], truth: NDArray | None
) -> pd.DataFrame:
    """Identity columns, truth, predicted, and a probability per class.

    table: n rows; probability: (n, classes); truth: (n,) class names.
    """
    guess = np.array(classes, dtype=object)[probability.argmax(1)] if len(probability) else np.array([], dtype=object)
    columns = {f"{PROBABILITY}{name}": probability[:, number].astype(np.float32) for number, name in enumerate(classes)}
    truth_column = {} if truth is None else {"truth": truth}
    return table.reset_index(drop=True).assign(**truth_column, predicted=guess, **columns)


def of_sources(items: pd.DataFrame, classes: tuple[str, ...]) -> pd.DataFrame:
    """Item predictions -> source predictions: the mean probability of a source's items."""
    columns = [f"{PROBABILITY}{name}" for name in classes]
    first = {name: "first" for name in ("unit", "fold", "truth") if name in items}
    mean = items.groupby("source_id", as_index=False).agg(first | dict.fromkeys(columns, "mean"))
    return mean.assign(predicted=np.array(classes, dtype=object)[mean[columns].to_numpy().argmax(1)])


def scored_rows(problem: Supervised, items: pd.DataFrame, sources: pd.DataFrame) -> pd.DataFrame:
    """What counts for a target: its sources, or its items and the annotations that no item answers to (wrong).

    Classes with fewer than two units in all cannot be evaluated and are left out.
    """
    import pandas as pd

    if problem.target.level == "source":
        rows = sources.assign(key=sources["source_id"])
    else:
        lost = problem.missed().rename(columns={"label": "truth"}).assign(predicted="")
        rows = pd.concat([items.assign(key=items["item_id"]), lost])
    rows = rows[rows["truth"].isin(problem.evaluated())]
    return rows[["key", "unit", "truth", "predicted"]].reset_index(drop=True)


def summarise(target: Target, scored: pd.DataFrame, items: pd.DataFrame) -> dict[str, Any]:
    """Flat scores: balanced accuracy and accuracy at the target's level, agreement of items with a source's label.

    Every row counts once, so that a unit weighs as many as it has; `largest_unit_share` says how many that is at most.
    """
    import pandas as pd

    hit = (scored["truth"] == scored["predicted"]).to_numpy()
    unit, truth = scored["unit"].to_numpy(str), scored["truth"].to_numpy(str)
    classes = sorted(set(truth))
    scores: dict[str, Any] = {"level": target.level, "scored": len(scored), "classes": len(classes)}
    scores |= intervals.balanced_accuracy(unit, truth, hit).flat("balanced_accuracy")
    scores["macro_f1"] = metrics.macro_f1(truth, scored["predicted"].to_numpy(str))
    scores["chance"] = 1 / max(1, len(classes))
    scores["largest_unit_share"] = float(np.unique(unit, return_counts=True)[1].max() / len(unit)) if len(unit) else 0.0
    scores["scored_classes"] = classes
    for name, recall in intervals.recalls(unit, truth, hit).items():
        scores |= recall.flat(f"recall_{name}")
    if target.ordered:
        scores |= absolute_error(scored).flat("mean_absolute_error")
    by_unit = pd.Series(hit).groupby(unit).mean()
    if target.level == "source":
        scores |= intervals.exact_binomial(int((by_unit > 0.5).sum()), len(by_unit)).flat("accuracy")
        agree = (items["truth"] == items["predicted"]).to_numpy()
        scores |= intervals.balanced_accuracy(items["unit"].to_numpy(str), items["truth"].to_numpy(str), agree).flat(
            "agreement"
        )
        scores |= cells_against_annotations(target, items)
    else:
        scores["matched_only"] = metrics.balanced_accuracy(
            items["truth"].to_numpy(str), items["predicted"].to_numpy(str)
        )
        scores["missed"] = int((scored["predicted"] == "").sum())
    probability = items[[f"{PROBABILITY}{name}" for name in target.classes]].to_numpy(float)
    right = (items["truth"] == items["predicted"]).to_numpy()
    scores["auc_items"] = metrics.auc(items["truth"].to_numpy(str), probability, list(target.classes))
    scores["calibration_error_items"] = metrics.calibration_error(right, probability.max(1))
    return scores


def told(scores: Mapping[str, Any], name: str, sign: Literal["", "+"] = "") -> str:
    """`0.812 (0.700 to 0.900)`; of a difference with `sign`."""
    value, low, high = (scores[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def units_told(scores: dict[str, Any], name: str) -> str:
    """`24 units`; where a class rests on few or unequal ones, `24 units, one class on 1.2`."""
    units, effective = scores[f"{name}_units"], scores.get(f"{name}_effective_units")
    little = effective is not None and effective < FEW_UNITS
    return f"{units:.0f} units" + (f", one class on {effective:.1f}" if little else "")


def weights_told(scores: dict[str, Any], start: str = "") -> str:
    """How much the largest unit weighs, where rows are counted and units hold several."""
    level, share = scores[f"{start}level"], scores[f"{start}largest_unit_share"]
    return f"every {level} counts once: the largest unit has {share:.0%} of them"


def inflation_told(scores: dict[str, Any]) -> str:
    """What a linear probe scores on unseen units and on random items; the gap is called inflation only where it is."""
    name = "inflation" if scores["inflation_low"] > 0 else "no inflation is shown"
    return (
        f"{scores['probe_unit_out']:.3f} on unseen units; {scores['probe_item_random']:.3f} if items were split at "
        f"random: {told(scores, 'inflation', '+')}, {name}"
    )


def absolute_error(scored: pd.DataFrame) -> intervals.Interval:
    """Mean distance of prediction and label, both numbers, over the rows that have a prediction."""
    rows = scored[scored["predicted"] != ""]
    error = np.abs(rows["truth"].astype(float) - rows["predicted"].astype(float)).to_numpy()
    return intervals.mean(rows["unit"].to_numpy(str), error)


def cells_against_annotations(target: Target, items: pd.DataFrame) -> dict[str, Any]:
    """Where cells carry a true label: how often the source's label is true of its cells, and how often the model is."""
    if "annotation" not in items or not items["annotation"].isin(target.classes).any():
        return {}
    annotated = items[items["annotation"].notna()]
    inside = annotated[annotated["annotation"].isin(target.classes)]
    hit = (inside["annotation"] == inside["predicted"]).to_numpy()
    scored = intervals.balanced_accuracy(inside["unit"].to_numpy(str), inside["annotation"].to_numpy(str), hit)
    purity = float((annotated["annotation"] == annotated["truth"]).mean())
    return {"cells_annotated": len(annotated), "purity": purity, **scored.flat("cell_accuracy")}


def beside(scored: pd.DataFrame, plain: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Plain models by name -> their balanced accuracies, and how far the scored rows are above them, paired."""
    out: dict[str, Any] = {"plain_models": sorted(plain)}
    for name in sorted(plain):
        rows = plain[name]
        hit = (rows["truth"] == rows["predicted"]).to_numpy()
        score = intervals.balanced_accuracy(rows["unit"].to_numpy(str), rows["truth"].to_numpy(str), hit)
        out |= score.flat(f"baseline_{name}") | compare(scored, rows).flat(f"above_{name}")
    return out


def compare(a: pd.DataFrame, b: pd.DataFrame) -> intervals.Interval:
    """Balanced accuracy of a minus b on the rows both have, paired over units."""
    paired = a.merge(b, on=["key", "unit", "truth"], suffixes=("_a", "_b"), validate="one_to_one")
    hits = [(paired["truth"] == paired[f"predicted_{side}"]).to_numpy() for side in "ab"]
    return intervals.paired_difference(paired["unit"].to_numpy(str), paired["truth"].to_numpy(str), *hits)
