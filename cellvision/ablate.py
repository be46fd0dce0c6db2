"""Stage: a base config and factors -> every arm on the same folds and seeds, compared in pairs over units.

Children live in `runs/` and are shared: one pretraining per fold and recipe, one embedding pass per frozen encoder.
Writes results.parquet (arm, fold, seed), summary.csv and differences.csv.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cellvision import finetune, pretrain
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import assign, build, fingerprint, option, result_keys
from cellvision.core.errors import ConfigError, StrategyRefused
from cellvision.core.progress import say, track, within
from cellvision.core.rundir import RunDir
from cellvision.evidence import comparison, scoring, seen, splits
from cellvision.evidence.configs import TargetConfig
from cellvision.evidence.splits import Folds
from cellvision.executors import local
from cellvision.runs.calls import stage

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches.items import Items

REVISION = 7
RECIPE = "pretrain:"  # an encoder named so is pretrained here, once per fold
ONE_SEED = "one seed an arm: how much another seed changes a score is in no interval"
OWN = {"items", "splits", "unit", "units", "target", "fold", "seed", "cache"}  # what an arm cannot have for itself
PLAIN = ("encoder", "tune", "strategy")  # options whose value is name enough for an arm


class Config(TargetConfig):
    """Options of `ablate`."""

    folds: Folds = option(3, "folds, and how many of given splits are tested; units: leave one unit out")
    seeds: tuple[int, ...] = option((0, 1), "one run of every arm and fold for each")
    base: dict[str, Any] = option({}, "finetune options all arms share", flag=False)
    pretrain: dict[str, dict[str, Any]] = option(
        {}, "pretraining recipes by name; arms use them as encoder pretrain:NAME", flag=False
    )
    factors: dict[str, list[Any]] = option({}, "finetune option -> values; every combination is an arm", flag=False)
    arms: dict[str, dict[str, Any]] = option({}, "further arms by name, each with its finetune options", flag=False)
    by: str | None = option(None, "column of the items; every arm is also scored for each of its values")
    reference: str | None = option(None, "arm the others are compared with; the first when absent")
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "threads", "device")


@stage
def run(cfg: Config, out: Path) -> None:
    """Run every child, pool them, and compare."""
    import pandas as pd

    arms = arms_of(cfg)
    reference = cfg.reference or next(iter(arms))
    if reference not in arms:
        raise ConfigError(f"no arm {reference!r} to compare with; arms: {', '.join(arms)}")
    items = BRANCHES.build(cfg.branch, path=cfg.items, reserved=cfg.reserved).items
    if cfg.by is not None and cfg.by not in items.table:
        raise ConfigError(f"no column {cfg.by!r} to score by; columns: {', '.join(map(str, items.table.columns))}")
    split = splits.resolve(items, cfg.splits, cfg.unit, cfg.units, cfg.target, cfg.folds)
    folds = splits.test_folds(split, "all")[: most(cfg)]
    check_children(cfg, arms, items, out)
    inputs = {"items": items.content, "splits": split.content, **encoder_contents(cfg, arms, folds)}
    with RunDir.claim(out, "ablate", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            split.write(out / "splits.csv")
            results = pd.DataFrame(run_children(cfg, arms, folds, out))
            plain, facts = run_baselines(cfg, arms, out)
            scored = pd.concat([pool(results, out), plain], ignore_index=True)
            summary, differences = comparison.compare(results, scored, annotated(results, out), reference)
            files.write_parquet(out / "results.parquet", results.drop(columns="stamps"))
            files.write_parquet(out / "scored.parquet", scored)
            write(out, summary, differences)
            if cfg.by is not None:
                write_by(out, scored, items, cfg.by)
            stamps = [*splits.stamps(items, split), *([ONE_SEED] if len(cfg.seeds) == 1 else [])]
            stamps += stamps_of(results, facts.pop("probe_stamps", []), stamps)
            claimed.finish(summarise(results, summary) | facts | {"stamps": stamps})
    report_to_person(out)


def arms_of(cfg: Config) -> dict[str, dict[str, Any]]:
    """Arm name -> finetune options: every combination of the factors, then the named arms."""
    arms: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*cfg.factors.values()) if cfg.factors else ():
        chosen = dict(zip(cfg.factors, values, strict=True))
        arms[", ".join(_word(key, value) for key, value in chosen.items())] = chosen
    arms |= cfg.arms
    if not arms:
        raise ConfigError("an ablation needs factors or arms; see experiments/ for examples")
    for name, options in arms.items():
        if (recipe := recipe_of(cfg, options)) is not None and recipe not in cfg.pretrain:
            raise ConfigError(f"arm {name!r} uses the recipe {recipe!r}; recipes: {', '.join(cfg.pretrain) or 'none'}")
    return arms


def check_children(cfg: Config, arms: dict[str, dict[str, Any]], items: Items, out: Path) -> None:
    """Every child's options and labels, before anything is trained. ConfigError for what a child would refuse."""
    from cellvision.evidence import targets

    for options in (cfg.base, *arms.values()):
        if shared_by_all := sorted(OWN & set(options)):
            raise ConfigError(
                f"{shared_by_all[0]!r} is one for all arms; give it to the ablation, not to its base or arms"
            )
    for name, options in arms.items():
        child = finetune_config(cfg, Child(name, options, 0, cfg.seeds[0]), out)
        if child.branch == cfg.branch:  # with other options of the branch there may be other items
            targets.read(items, cfg.target, child.ignore, child.only, bins=child.bins, least=child.min_examples)
    for recipe in recipes_of(cfg, arms):
        pretrain_config(cfg, recipe, 0, out)


def encoder_contents(cfg: Config, arms: dict[str, dict[str, Any]], folds: Sequence[int]) -> dict[str, str]:
    """What the weights hold that arms and their recipes start from, by the text that names them and fold."""
    from cellvision.models import encoders

    option_sets = [
        *({**cfg.base, **arm} for arm in arms.values()),
        *(cfg.pretrain[name] for name in recipes_of(cfg, arms)),
    ]
    specs = {str(options["encoder"]) for options in option_sets if options.get("encoder")}
    named = {spec.replace("{fold}", str(fold)) for spec in specs for fold in folds if not spec.startswith(RECIPE)}
    return {f"encoder {spec}": encoders.content_hash(spec) for spec in sorted(named)}


def most(cfg: Config) -> int | None:
    """How many folds are tested; None is all."""
    return None if cfg.folds == "units" else cfg.folds


def _word(key: str, value: Any) -> str:
    name = str(value.get("name", value)) if isinstance(value, dict) else str(value)
    last = key.rsplit(".", 1)[-1]
    return name.removeprefix(RECIPE) if key in PLAIN else f"{last.replace('_', ' ')} {name}"


# -- children -----------------------------------------------------------------------------------------------------


class Child(NamedTuple):
    """One finetune run: an arm with one fold and one seed."""

    arm: str
    options: dict[str, Any]
    fold: int
    seed: int


def run_children(cfg: Config, arms: dict[str, dict[str, Any]], folds: list[int], out: Path) -> list[dict[str, Any]]:
    """Every pretraining, then every arm, fold and seed, one process a core; -> one row of results each."""
    jobs = local.cores() if cfg.workers is None else cfg.workers
    recipes = [(cfg, name, fold, out) for name, fold in itertools.product(recipes_of(cfg, arms), folds)]
    pretrained = local.ordered_map(run_recipe, recipes, min(jobs, len(recipes)))
    for _ in track(pretrained, "ablate", len(recipes), "pretrainings"):
        pass
    every = itertools.product(arms.items(), folds, cfg.seeds)
    tasks = [(cfg, Child(name, options, fold, seed), out) for (name, options), fold, seed in every]
    trained = local.ordered_map(run_child, tasks, min(jobs, len(tasks)))
    return list(track(trained, "ablate", len(tasks), "trainings"))


def recipe_of(cfg: Config, options: dict[str, Any]) -> str | None:
    """The recipe an arm's encoder is pretrained with, if any."""
    spec = str(options.get("encoder") or cfg.base.get("encoder") or "")
    return spec.removeprefix(RECIPE) if spec.startswith(RECIPE) else None


def recipes_of(cfg: Config, arms: dict[str, dict[str, Any]]) -> list[str]:
    """The recipes that arms use."""
    return sorted({name for options in arms.values() if (name := recipe_of(cfg, options))})


def run_child(task: tuple[Config, Child, Path]) -> dict[str, Any]:
    """Fine-tune one child; -> its row of results. A refused strategy is a row too."""
    cfg, child, out = task
    child_config = finetune_config(cfg, child, out)
    if recipe := recipe_of(cfg, child.options):
        child_config = child_config.model_copy(update={"encoder": str(pretraining(cfg, recipe, child.fold, out)[1])})
    folder = child_folder(out, "finetune", child_config, child.fold)
    row: dict[str, Any] = {"arm": child.arm, "fold": child.fold, "seed": child.seed, "status": "ok", "reason": ""}
    row["stamps"] = []
    try:
        with within(f"ablate: {child.arm}, seed {child.seed}"):
            finetune.run(child_config, folder)
    except StrategyRefused as refusal:
        return row | {"status": "refused", "reason": str(refusal)}
    metrics = files.read_json(folder / "metrics.json")
    keys = ("balanced_accuracy", "balanced_accuracy_units", "level", "scored", "steps_total", "purity", "stamps")
    return row | {key: metrics.get(key) for key in keys} | {"run": folder.relative_to(out).as_posix()}


def stamps_of(results: pd.DataFrame, probe: list[str], of_all: list[str]) -> list[str]:
    """What arms and the probe have to say, without what is said of all of them."""
    runs = {f"arm {arm!r}": list(rows["stamps"]) for arm, rows in results.groupby("arm", sort=False)}
    special = {
        name: [[stamp for stamp in stamps if stamp not in of_all] for stamps in each] for name, each in runs.items()
    }
    return seen.of_children(special | {"the linear probe": [probe]})


def finetune_config(cfg: Config, child: Child, out: Path) -> finetune.Config:
    """What the base and the arm say, on top of what all children share."""
    merged = shared(cfg, out) | {
        "target": cfg.target,
        "bins": cfg.bins,
        "min_examples": cfg.min_examples,
        "fold": str(child.fold),
        "seed": child.seed,
        "baselines": False,
    }
    for key, value in {**cfg.base, **child.options}.items():
        assign(merged, key, value)
    if merged.get("tune", "linear") == "linear":
        merged["cache"] = out / "runs" / "features"
    return build(finetune.Config, merged)


def pretrain_config(cfg: Config, name: str, fold: int, out: Path) -> pretrain.Config:
    """What the recipe says, on top of what all children share; {fold} in its encoder's path is filled in."""
    merged = shared(cfg, out) | {"fold": str(fold), "seed": cfg.seed}
    for key, value in cfg.pretrain[name].items():
        assign(merged, key, value)
    if merged.get("encoder"):
        merged["encoder"] = str(merged["encoder"]).replace("{fold}", str(fold))
    return build(pretrain.Config, merged)


def pretraining(cfg: Config, name: str, fold: int, out: Path) -> tuple[pretrain.Config, Path]:
    """Config and folder of a recipe with this fold held out: one for all arms and seeds that ask for it."""
    child_config = pretrain_config(cfg, name, fold, out)
    return child_config, child_folder(out, "pretrain", child_config, fold)


def run_recipe(task: tuple[Config, str, int, Path]) -> None:
    cfg, name, fold, out = task
    with within(f"ablate: recipe {name}"):
        pretrain.run(*pretraining(cfg, name, fold, out))


def shared(cfg: Config, out: Path) -> dict[str, Any]:
    """What all children are given: the splits, and their unit where it is a column that inputs leave out."""
    return {
        "items": cfg.items, "branch": cfg.branch.model_dump(), "splits": out / "splits.csv",
        "unit": cfg.unit if cfg.branch.name != "image" else None, "workers": 0, "threads": 1, "device": cfg.device,
    }  # fmt: skip


def child_folder(out: Path, stage: str, made: finetune.Config | pretrain.Config, fold: int) -> Path:
    """`runs/<stage>-<fingerprint>`: the same child is the same folder, whatever arm asks for it.

    Which encoder it starts from is told by content: of another one at the same path another child is made.
    """
    from cellvision.models import encoders

    origin = encoders.content_hash(made.encoder.replace("{fold}", str(fold))) if made.encoder else None
    return out / "runs" / f"{stage}-{fingerprint([result_keys(made), origin])}"


def run_baselines(cfg: Config, arms: dict[str, dict[str, Any]], out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The plain models on the same folds, with as many labels as the arms have; -> rows; shortcuts, a split by item.

    They see the rows and labels of the base. Where arms differ in their share of labels, each plain model is there with
    each share, the first seed's choice.
    """
    import pandas as pd

    from cellvision.evidence import baselines

    shares = sorted({float((cfg.base | options).get("label_fraction", 1)) for options in arms.values()})
    plain, shortcuts = [], []
    for share in shares:
        job = PlainJob(cfg, out, share)
        suffix = f", {_word('label_fraction', share)}" if len(shares) > 1 else ""
        paths = baselines.write_all(job, out / "runs" / f"baselines-{share:g}", cfg.threads)
        plain += [
            files.read_parquet(path).assign(arm=f"{comparison.BASELINE}{name}{suffix}", seed=0)
            for name, path in paths.items()
        ]
        shortcuts += [f"{comparison.BASELINE}{name}{suffix}" for name in baselines.shortcuts(job.branch)]
    return pd.concat(plain), finetune.item_random(job) | {"shortcuts": shortcuts}


def plain_config(cfg: Config, out: Path) -> finetune.Config:
    """The supervised problem of the base, all folds and the first seed; an encoder made by a recipe is left out."""
    every = finetune_config(cfg, Child("", {}, 0, cfg.seeds[0]), out)
    return every.model_copy(
        update={"fold": "all", "encoder": None if recipe_of(cfg, {}) else every.encoder, "cache": None}
    )


class PlainJob(finetune.Job):
    """That problem with a share of the labels; a recipe's encoder is that of each fold, as the arms have it."""

    def __init__(self, cfg: Config, out: Path, share: float) -> None:
        self.recipe = recipe_of(cfg, {})
        super().__init__(plain_config(cfg, out).model_copy(update={"label_fraction": share}))
        all_folds, self.folds = self.folds, self.folds[: most(cfg)]
        if len(self.folds) < len(all_folds):  # a recipe leaves no encoder for the others
            self.recipe = None
        if self.recipe:
            self.spec = f"{RECIPE}{self.recipe}"
            self.of_fold = {fold: str(pretraining(cfg, self.recipe, fold, out)[1]) for fold in self.folds}

    def encoder_of(self, fold: int | None) -> str:
        return self.of_fold[fold] if self.recipe and fold is not None else super().encoder_of(fold)


# -- comparison ---------------------------------------------------------------------------------------------------


def pool(results: pd.DataFrame, out: Path) -> pd.DataFrame:
    """The scored rows of all children that were not refused, with arm and seed."""
    import pandas as pd

    ok = results[results["status"] == "ok"]
    tables = [
        files.read_parquet(out / row["run"] / "scored.parquet").assign(arm=row["arm"], seed=row["seed"])
        for row in ok.to_dict("records")
    ]
    if not tables:
        raise StrategyRefused(f"every arm was refused: {results['reason'].iloc[0]}")
    return pd.concat(tables, ignore_index=True)


def annotated(results: pd.DataFrame, out: Path) -> pd.DataFrame:
    """What every arm and seed says of the items with a true label, where that is one of the classes."""
    import pandas as pd

    tables = []
    for row in results[results["status"] == "ok"].to_dict("records"):
        items = files.read_parquet(out / row["run"] / "predictions.parquet")
        if "annotation" in items:
            inside = items[items["annotation"].isin({name.removeprefix(scoring.PROBABILITY) for name in items})]
            columns = inside[["item_id", "unit", "predicted"]].rename(columns={"item_id": "key"})
            tables.append(columns.assign(truth=inside["annotation"], arm=row["arm"], seed=row["seed"]))
    return pd.concat(tables) if tables else pd.DataFrame(columns=["arm"])


def summarise(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Any]:
    ok = results[results["status"] == "ok"]
    return {
        "arms": results["arm"].nunique(),
        "folds": results["fold"].nunique(),
        "seeds": results["seed"].nunique(),
        "children": len(results),
        "units": int(summary["units"].max()),
        "level": ok["level"].iloc[0],
        "refused": sorted(set(results["arm"]) - set(ok["arm"])),
        "purity": float(ok["purity"].mean()),
        **{f"balanced_accuracy {row.arm}": row.balanced_accuracy for row in summary.itertuples()},
    }


def write(out: Path, summary: pd.DataFrame, differences: pd.DataFrame) -> None:
    """Tables and their pictures."""
    from cellvision.plots.results import forest_plot

    files.write_csv(out / "summary.csv", summary)
    files.write_csv(out / "differences.csv", differences)
    ok = summary[summary["status"] == "ok"]
    label = f"balanced accuracy, 95 % over {ok['units'].max():.0f} units"
    forest_plot(_rows(ok, "balanced_accuracy"), out / "summary.png", label)
    if len(differences):
        label = f"difference to '{differences['reference'].iloc[0]}', paired over units"
        forest_plot(_rows(differences, "difference"), out / "differences.png", label, 0.0)


def write_by(out: Path, scored: pd.DataFrame, items: Items, column: str) -> None:
    """by.csv: every arm scored on the items of each value of a column; by.png: accuracy against that value."""
    import pandas as pd

    from cellvision.evidence import targets
    from cellvision.plots.results import by_value

    key = "item_id" if scored["key"].isin(items.table["item_id"]).any() else "source_id"
    value = items.table.drop_duplicates(key).set_index(key)[column].astype(str)
    scored = scored.assign(value=scored["key"].map(value)).dropna(subset=["value"])
    order = targets.in_order(scored["value"].unique())
    scores: list[dict[str, Any]] = []
    for (arm, level), rows in scored.groupby(["arm", "value"], sort=False):
        pooled = comparison.pool(rows)
        interval = comparison.score(pooled)
        score = {**interval.flat("balanced_accuracy"), "scored": len(pooled), **comparison.absolute_error(rows)}
        scores.append({"arm": arm, column: level, "order": order.index(level), **score})
    table = pd.DataFrame(scores).sort_values(["arm", "order"]).drop(columns="order")
    files.write_csv(out / "by.csv", table)
    by_value(table, column, order, out / "by.png")


def _rows(table: pd.DataFrame, name: str) -> list[tuple[str, float, float, float]]:
    columns = ["arm", name, f"{name}_low", f"{name}_high"]
    return list(table[columns].itertuples(index=False, name=None))


def report_to_person(out: Path) -> None:
    """One line an arm."""

    summary, differences = files.read_csv(out / "summary.csv"), files.read_csv(out / "differences.csv")
    pairs = differences.set_index("arm").to_dict("index")
    for row in summary.to_dict("records"):
        if row["status"] != "ok":
            say(f"ablate: {row['arm']}: {row['status']}")
            continue
        text = f"{scoring.told(row, 'balanced_accuracy')}, {row['units']:.0f} units"
        if row["arm"] in pairs:
            pair = pairs[row["arm"]]
            text += f"; {scoring.told(pair, 'difference', '+')} to {pair['reference']!r}"
        say(f"ablate: {row['arm']}: {text}")
    path = out / "metrics.json"
    for stamp in files.read_json(path)["stamps"] if path.exists() else ():
        say(f"ablate: stamp: {stamp}")


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("ablate"))
