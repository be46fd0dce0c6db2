"""Stage: items, a target -> features that a plain model relies on, on units it never saw. Writes importance.csv.

In every fold a model is fitted on training units; each of its leading features is then shuffled among held-out items,
and what the true label's log-probability loses is the feature's importance. Features that go together share it: a low
value is no proof that a feature means nothing.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import BRANCH_HELP, BRANCHES, BranchConfig
from cellvision.core import files
from cellvision.core.config import option
from cellvision.core.errors import ConfigError
from cellvision.core.progress import say, track
from cellvision.core.rng import generator, torch_seed
from cellvision.core.rundir import RunDir
from cellvision.evidence import intervals, scoring, splits
from cellvision.evidence.configs import TargetConfig
from cellvision.evidence.problem import Supervised
from cellvision.runs.calls import stage

if TYPE_CHECKING:
    import pandas as pd

REVISION = 3
SMALLEST = 1e-3  # probability below which a true label loses no more: a forest's zero is not infinitely wrong
SHOWN = 25  # features in the picture


class Config(TargetConfig):
    """Options of `importance`."""

    branch: BranchConfig = option("rna", BRANCH_HELP)
    ignore: tuple[str, ...] = option((), "labels that are no class")
    model: Literal["forest", "logistic"] = option("forest", "what is fitted in every fold")
    candidates: int = option(100, "features tried in a fold: those the model itself ranks first", ge=1)
    repeats: int = option(5, "shuffles of each feature", ge=1, le=1000)
    top: int = option(20, "features whose agreement between folds is measured", ge=1)
    uses: ClassVar[tuple[str, ...]] = ("seed", "threads")


@stage
def run(cfg: Config, out: Path) -> None:
    """Fit and shuffle fold by fold; pool; say how far the folds agree."""
    from cellvision.evidence import targets
    from cellvision.plots.results import forest_plot

    branch = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved)
    resolved = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units, cfg.target)
    target = targets.read(branch.items, cfg.target, cfg.ignore, bins=cfg.bins, least=cfg.min_examples)
    problem = Supervised(branch, resolved, target, "all", cfg.seed)
    with RunDir.claim(
        out, "importance", cfg, {"items": branch.items.content, "splits": resolved.content}, REVISION
    ) as claimed:
        if not claimed.done:
            each = (one_fold(cfg, problem, fold) for fold in problem.folds)
            work = track(each, "importance", len(problem.folds), "folds")
            folds, scored = zip(*work, strict=True)
            unit, truth, hit = (np.concatenate(parts) for parts in zip(*scored, strict=True))
            table = pool(list(folds))
            files.write_csv(out / "importance.csv", table)
            shown = table.head(SHOWN)
            bars = list(shown[["feature", "importance", "lowest", "highest"]].itertuples(index=False, name=None))
            label = f"loss of log-probability when shuffled, held-out units; range over {len(folds)} folds"
            forest_plot(bars, out / "importance.png", label, 0.0)
            score = intervals.balanced_accuracy(unit, truth, hit).flat("balanced_accuracy")
            facts: dict[str, Any] = {"folds": len(folds), "candidates": len(table), "chance": 1 / len(np.unique(truth))}
            facts |= {"stamps": splits.stamps(branch.items, resolved)}
            claimed.finish(facts | score | agreement(list(folds), cfg.top))
    report_to_person(out)


def one_fold(cfg: Config, problem: Supervised, fold: int) -> tuple[pd.DataFrame, tuple[NDArray, NDArray, NDArray]]:
    """feature, importance and drop of accuracy of the leading features; (n,) units, labels and hits of the fold."""
    import pandas as pd

    from cellvision.evidence import baselines

    train, test = problem.train_rows(fold), problem.test_rows(fold)
    state = problem.branch.fit(train)
    names = problem.branch.feature_names(state)
    if names is None:
        raise ConfigError(f"items of the branch {problem.branch.cfg.name!r} have no features with names")
    inside, outside = problem.branch.batch(train, state), problem.branch.batch(test, state)
    label, classes = problem.target.label, len(problem.target.classes)
    model = baselines.estimator(cfg.model, torch_seed(cfg.seed, "importance", fold), cfg.threads or 1)
    guess = baselines.fit_predict(model, inside, label[train], outside, classes)
    before, right = log_truth(guess, label[test]), guess.argmax(1) == label[test]
    rows = []
    for feature in leading(model, cfg.candidates):
        rng = generator(cfg.seed, "shuffle", fold, names[feature])
        shuffled = np.tile(outside, (cfg.repeats, 1))
        shuffled[:, feature] = np.concatenate([rng.permutation(outside[:, feature]) for _ in range(cfg.repeats)])
        again = np.zeros((len(shuffled), classes))
        again[:, model[-1].classes_] = model.predict_proba(shuffled)
        truth = np.tile(label[test], cfg.repeats)
        lost, missed = before.mean() - log_truth(again, truth).mean(), right.mean() - (again.argmax(1) == truth).mean()
        rows.append({"feature": names[feature], "importance": float(lost), "accuracy_drop": float(missed)})
    return pd.DataFrame(rows), (problem.unit[test], label[test], right)


def log_truth(probability: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, k), (n,) -> (n,) log-probability of the true class."""
    return np.log(np.maximum(probability[np.arange(len(label)), label], SMALLEST))


def leading(model: Any, count: int) -> NDArray[np.int64]:
    """Positions of the features that the fitted model itself ranks first, on its training rows."""
    last = model[-1]
    weight = last.feature_importances_ if hasattr(last, "feature_importances_") else np.abs(last.coef_).max(0)
    return np.argsort(-weight, kind="stable")[:count]


def pool(folds: list[pd.DataFrame]) -> pd.DataFrame:
    """One row a feature: mean over folds, 0 where it was no candidate; range; folds it led in."""
    import pandas as pd

    wide = pd.concat(
        [fold.set_index("feature")["importance"].rename(number) for number, fold in enumerate(folds)], axis=1
    )
    drop = pd.concat([fold.set_index("feature")["accuracy_drop"] for fold in folds], axis=1).fillna(0).mean(axis=1)
    tried = wide.notna().sum(axis=1)
    wide = wide.fillna(0)
    table = pd.DataFrame(
        {
            "importance": wide.mean(axis=1), "lowest": wide.min(axis=1), "highest": wide.max(axis=1),
            "accuracy_drop": drop, "folds_tried": tried, "folds_above_zero": (wide > 0).sum(axis=1),
        }
    )  # fmt: skip
    return table.sort_values("importance", ascending=False, kind="stable").reset_index(names="feature")


def agreement(folds: list[pd.DataFrame], top: int) -> dict[str, float]:
    """How far two folds agree, on average: rank correlation over all features tried, and overlap of the first ones."""
    from scipy.stats import spearmanr

    pairs = list(itertools.combinations([fold.set_index("feature")["importance"] for fold in folds], 2))
    ranks, overlaps = [], []
    for a, b in pairs:
        features = a.index.union(b.index)
        if len(features) > 2:
            ranks.append(
                float(spearmanr(a.reindex(features, fill_value=0), b.reindex(features, fill_value=0)).statistic)
            )
        first = [set(importance.nlargest(top).index) for importance in (a, b)]
        overlaps.append(len(first[0] & first[1]) / max(1, len(first[0] | first[1])))
    if not pairs:
        return {}
    finite = [rank for rank in ranks if np.isfinite(rank)]
    return {
        "rank_correlation": float(np.mean(finite)) if finite else 0.0,
        f"top{top}_jaccard": float(np.mean(overlaps)),
    }


def report_to_person(out: Path) -> None:

    metrics = files.read_json(out / "metrics.json")
    first = ", ".join(files.read_csv(out / "importance.csv")["feature"].head(10).astype(str))
    overlap = next((f"{value:.2f}" for key, value in metrics.items() if key.endswith("_jaccard")), "unknown")
    score, units = scoring.told(metrics, "balanced_accuracy"), scoring.units_told(metrics, "balanced_accuracy")
    say(
        f"importance: balanced accuracy {score}, {units}; chance "
        f"{metrics['chance']:.3f}; folds agree by {overlap} (Jaccard)"
    )
    say(f"importance: first: {first} -> {out}")
    for stamp in metrics["stamps"]:
        say(f"importance: stamp: {stamp}")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("importance"))
