"""Stage: a base config and factors -> every arm on the same folds and seeds, compared in pairs over units.

Children live in `runs/` and are shared: one pretraining per fold and recipe, one embedding pass per frozen encoder.
Writes results.parquet (arm, fold, seed), summary.csv and differences.csv.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cellvision import finetune, pretrain
from cellvision.branches import BRANCHES, BranchConfig
from cellvision.core import files, parallel, plots, splits, stats
from cellvision.core.config import StageConfig, assign, build, fingerprint, option, result_keys
from cellvision.core.errors import ConfigError, StrategyRefused
from cellvision.core.progress import say, track
from cellvision.core.rundir import RunDir
from cellvision.core.splits import Splits

REVISION = 1
RECIPE = "pretrain:"  # an encoder named so is pretrained here, once per fold
BASELINES = "baselines"  # the child that scores the plain models


class Config(StageConfig):
    """Options of `ablate`."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch", runtime=True)
    branch: BranchConfig = option("image", "image or tabular")  # type: ignore[valid-type]
    target: str = option("group", "what every arm learns")
    splits: Path | None = option(None, "splits.csv of a plan run; made with --folds when absent", runtime=True)
    unit: str | None = option(None, "column of independent units, or COLUMN~REGEX, or row")
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    folds: int = option(3, "folds, and how many of given splits are tested", ge=2)
    seeds: tuple[int, ...] = option((0, 1), "one run of every arm and fold for each")
    base: dict[str, Any] = option({}, "finetune options all arms share", flag=False)
    pretrain: dict[str, dict[str, Any]] = option(
        {}, "pretraining recipes by name; arms use them as encoder pretrain:NAME", flag=False
    )
    factors: dict[str, list[Any]] = option({}, "finetune option -> values; every combination is an arm", flag=False)
    arms: dict[str, dict[str, Any]] = option({}, "further arms by name, each with its finetune options", flag=False)
    reference: str | None = option(None, "arm the others are compared with; the first when absent")


def run(cfg: Config, out: Path) -> None:
    """Run every child, pool them, and compare."""
    arms = arms_of(cfg)
    branch = BRANCHES.load(cfg.branch.name)(cfg.branch, cfg.items, (cfg.target, (cfg.unit or "").partition("~")[0]))  # type: ignore[attr-defined]
    if cfg.splits:
        made = splits.read(cfg.splits)
    else:
        made = splits.make(branch.items, splits.unit_column(branch.items, cfg.unit, cfg.units), cfg.folds)
    folds = splits.test_folds(made, "all")[: cfg.folds]
    reference = cfg.reference or next(iter(arms))
    if reference not in arms:
        raise ConfigError(f"no arm {reference!r} to compare with; arms: {', '.join(arms)}")
    inputs = {"items": branch.items.content, "splits": made.content}
    with RunDir.claim(out, "ablate", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            made.write(out / "splits.csv")
            results, scored = run_children(cfg, arms, folds, out)
            results_table = pd.DataFrame(results)
            files.write_parquet(out / "results.parquet", results_table)
            scored |= run_baselines(cfg, made, out)
            files.write_parquet(
                out / "scored.parquet",
                pd.concat([rows.assign(arm=name) for name, rows in scored.items()], ignore_index=True),
            )
            summary, differences = compare(results_table, scored, reference)
            write(out, summary, differences)
            refused = results_table[results_table["status"] != "ok"]["arm"].unique()
            claimed.finish({
                "arms": len(arms), "folds": len(folds), "seeds": len(cfg.seeds), "children": len(results),
                "units": int(summary["units"].max()), "refused": list(refused),
                **{f"balanced_accuracy {row.arm}": row.balanced_accuracy for row in summary.itertuples()},
            })  # fmt: skip
    report_to_person(out)


def arms_of(cfg: Config) -> dict[str, dict[str, Any]]:
    """Arm name -> finetune options: every combination of the factors, then the named arms."""
    found: dict[str, dict[str, Any]] = {}
    if cfg.factors:
        for values in itertools.product(*cfg.factors.values()):
            chosen = dict(zip(cfg.factors, values, strict=True))
            found[" · ".join(_word(key, value) for key, value in chosen.items())] = chosen
    found |= cfg.arms
    if not found:
        raise ConfigError("an ablation needs factors or arms; see experiments/ for examples")
    for name, options in found.items():
        if (recipe := recipe_of(cfg, options)) is not None and recipe not in cfg.pretrain:
            raise ConfigError(f"arm {name!r} uses the recipe {recipe!r}; recipes: {', '.join(cfg.pretrain) or 'none'}")
    return found


def _word(key: str, value: Any) -> str:
    name = str(value.get("name", value)) if isinstance(value, dict) else str(value)
    return (
        name.removeprefix(RECIPE)
        if key in ("encoder", "tune", "strategy", "strategy.name")
        else f"{key.rsplit('.', 1)[-1]} {name}"
    )


# -- children -----------------------------------------------------------------------------------------------------


class Child(NamedTuple):
    """One finetune run: an arm with one fold and one seed."""

    arm: str
    options: dict[str, Any]
    fold: int
    seed: int


def run_children(
    cfg: Config, arms: dict[str, dict[str, Any]], folds: list[int], out: Path
) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame]]:
    """Every pretraining, then every arm, fold and seed, one process a core; -> result rows, scored rows of each arm."""
    jobs = parallel.cores() if cfg.workers is None else cfg.workers
    used = {recipe_of(cfg, options) for options in arms.values()} - {None}
    recipes = [(cfg, name, fold, out) for name in sorted(filter(None, used)) for fold in folds]
    for _ in track(
        parallel.ordered_map(run_recipe, recipes, min(jobs, len(recipes))), "ablate: pretrain", len(recipes)
    ):
        pass
    children = [
        Child(name, options, fold, seed)
        for (name, options), fold, seed in itertools.product(arms.items(), folds, cfg.seeds)
    ]
    tasks = [(cfg, child, out) for child in children]
    done = parallel.ordered_map(run_child, tasks, min(jobs, len(tasks)))
    results = list(track(done, "ablate: finetune", len(tasks)))
    scored: dict[str, list[pd.DataFrame]] = {}
    for row in results:
        if row["status"] == "ok":
            scored.setdefault(row["arm"], []).append(
                pd.read_parquet(out / row["run"] / "scored.parquet").assign(seed=row["seed"])
            )
    return results, {name: pd.concat(tables, ignore_index=True) for name, tables in scored.items()}


def recipe_of(cfg: Config, options: dict[str, Any]) -> str | None:
    """The recipe an arm's encoder is pretrained with, if any."""
    spec = str(options.get("encoder") or cfg.base.get("encoder") or "")
    return spec.removeprefix(RECIPE) if spec.startswith(RECIPE) else None


def run_child(task: tuple[Config, Child, Path]) -> dict[str, Any]:
    """Fine-tune one child; -> its row of results. A refused strategy is a row too."""
    cfg, child, out = task
    merged = shared(cfg, out) | {
        "target": cfg.target,
        "fold": str(child.fold),
        "seed": child.seed,
        "baselines": False,
        "cache": out / "runs" / "features",
    }
    for key, value in {**cfg.base, **child.options}.items():
        assign(merged, key, value)
    recipe = recipe_of(cfg, child.options)
    if recipe:
        merged["encoder"] = str(pretraining(cfg, recipe, child.fold, out)[1])
    made = build(finetune.Config, merged)
    folder = child_folder(out, "finetune", made, merged.get("encoder"))
    row: dict[str, Any] = {"arm": child.arm, "fold": child.fold, "seed": child.seed, "status": "ok", "reason": ""}
    try:
        finetune.run(made, folder)
    except StrategyRefused as refusal:
        return row | {"status": "refused", "reason": str(refusal)}
    found = files.read_json(folder / "metrics.json")
    keys = ("balanced_accuracy", "balanced_accuracy_units", "scored", "steps", "steps_total")
    return row | {key: found.get(key) for key in keys} | {"run": folder.relative_to(out).as_posix()}


def pretraining(cfg: Config, name: str, fold: int, out: Path) -> tuple[pretrain.Config, Path]:
    """Config and folder of a recipe with this fold held out: one for all arms and seeds that ask for it."""
    merged = shared(cfg, out) | {"fold": str(fold)}
    for key, value in cfg.pretrain[name].items():
        assign(merged, key, value)
    made = build(pretrain.Config, merged)
    return made, child_folder(out, "pretrain", made, merged.get("encoder"))


def run_recipe(task: tuple[Config, str, int, Path]) -> None:
    cfg, name, fold, out = task
    pretrain.run(*pretraining(cfg, name, fold, out))


def shared(cfg: Config, out: Path) -> dict[str, Any]:
    return {
        "items": cfg.items, "branch": cfg.branch, "splits": out / "splits.csv", "unit": cfg.unit, "units": cfg.units,
        "workers": 0, "threads": 1, "device": cfg.device,
    }  # fmt: skip


def child_folder(out: Path, stage: str, made: StageConfig, encoder: Any) -> Path:
    """`runs/<stage>-<fingerprint>`: the same child is the same folder, whatever arm asks for it."""
    origin = str(encoder).removeprefix(str(out)) if encoder else None
    return out / "runs" / f"{stage}-{fingerprint([result_keys(made), origin])}"


def run_baselines(cfg: Config, made: Splits, out: Path) -> dict[str, pd.DataFrame]:
    """The plain models on the same folds, as arms of their own."""
    merged = shared(cfg, out) | {"target": cfg.target}
    for key, value in cfg.base.items():
        if key in ("ignore", "loop.batch"):
            assign(merged, key, value)
    child = out / "runs" / BASELINES
    finetune.run_baselines(build(finetune.Config, merged), child, cfg.folds)
    return {
        f"baseline: {path.stem.removeprefix('baseline-')}": pd.read_parquet(path).assign(seed=0)
        for path in sorted(child.glob("baseline-*.parquet"))
    }


# -- comparison ---------------------------------------------------------------------------------------------------


def compare(
    results: pd.DataFrame, scored: dict[str, pd.DataFrame], reference: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Arms by balanced accuracy with an interval over units; differences to the reference, paired over units."""
    pooled = {name: pool_seeds(rows) for name, rows in scored.items()}
    summary = []
    for name, rows in pooled.items():
        interval = stats.balanced_accuracy(
            rows["unit"].to_numpy(str), rows["truth"].to_numpy(str), rows["correct"].to_numpy(float)
        )
        own = results[(results["arm"] == name) & (results["status"] == "ok")]
        by_seed = own.groupby("seed")["balanced_accuracy"].mean() if len(own) else pd.Series(dtype=float)
        summary.append({
            "arm": name, **interval.flat("balanced_accuracy"), "units": interval.units, "scored": len(rows),
            "sd_over_seeds": float(by_seed.std()) if len(by_seed) > 1 else None,
            "steps_total": float(own["steps_total"].mean()) if len(own) else None, "status": "ok",
        })  # fmt: skip
    for row in results[results["status"] != "ok"].drop_duplicates("arm").itertuples():
        summary.append({"arm": row.arm, "status": f"refused: {row.reason}"})
    differences = [
        {"arm": name, "reference": reference, **difference(rows, pooled[reference]).flat("difference")}
        for name, rows in pooled.items()
        if reference in pooled and name != reference
    ]
    return pd.DataFrame(summary), pd.DataFrame(differences)


def pool_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a key: the share of seeds that got it right."""
    rows = rows.assign(correct=(rows["truth"] == rows["predicted"]).astype(float))
    return rows.groupby(["key", "unit", "truth"], as_index=False)["correct"].mean()


def difference(a: pd.DataFrame, b: pd.DataFrame) -> stats.Interval:
    both = a.merge(b, on=["key", "unit", "truth"], suffixes=("_a", "_b"), validate="one_to_one")
    columns = [both[name].to_numpy() for name in ("unit", "truth", "correct_a", "correct_b")]
    return stats.paired_difference(*columns)


def write(out: Path, summary: pd.DataFrame, differences: pd.DataFrame) -> None:
    files.write_csv(out / "summary.csv", summary)
    files.write_csv(out / "differences.csv", differences)
    ok = summary[summary["status"] == "ok"]
    columns = [ok[f"balanced_accuracy{part}"].to_numpy(float) for part in ("", "_low", "_high")]
    plots.intervals(
        list(ok["arm"]), *columns, out / "summary.png", f"balanced accuracy, 95 % over {int(ok['units'].max())} units"
    )
    if len(differences):
        columns = [differences[f"difference{part}"].to_numpy(float) for part in ("", "_low", "_high")]
        name = differences["reference"].iloc[0]
        plots.intervals(
            list(differences["arm"]),
            *columns,
            out / "differences.png",
            f"difference to {name!r}, paired over units",
            0.0,
        )


def report_to_person(out: Path) -> None:
    summary, differences = pd.read_csv(out / "summary.csv"), pd.read_csv(out / "differences.csv")
    for row in summary.itertuples():
        if row.status != "ok":
            say(f"ablate: {row.arm}: {row.status}")
            continue
        text = f"{row.balanced_accuracy:.3f} ({row.balanced_accuracy_low:.3f} to {row.balanced_accuracy_high:.3f}), {int(row.units)} units"
        pair = differences[differences["arm"] == row.arm] if len(differences) else differences
        if len(pair):
            d = pair.iloc[0]
            text += f"; {d['difference']:+.3f} ({d['difference_low']:+.3f} to {d['difference_high']:+.3f}) to {d['reference']!r}"
        say(f"ablate: {row.arm}: {text}")


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("ablate"))
