"""Nested check of an ablation: which arm is chosen is part of what is tested.

python experiments/nested.py --config experiments/moa.yaml --items $CELLVISION_REALDATA/tabular_bbbc021/wells.csv \\
  --out runs/moa-nested --seeds 0

For each outer unit the arm is chosen by leave-one-unit-out folds among the others, then scored on the outer unit,
beside logistic regression on the same outer units. A training without units {a, b} scores b for the outer unit a, and
a for b, so n units need n (n + 1) / 2 trainings an arm and seed. Each is kept in OUT, so the same command goes on where
it stopped. Writes choices.csv (outer unit, chosen arm, inner scores), summary.csv and differences.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cellvision import ablate, finetune
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import fingerprint, load, result_keys
from cellvision.core.errors import CellvisionError, ConfigError
from cellvision.core.progress import say, track
from cellvision.evidence import baselines, comparison, independence, metrics, splits
from cellvision.executors import local

if TYPE_CHECKING:
    import pandas as pd

LOGISTIC = "baseline: logistic"
CHOSEN = "chosen by inner folds"
HELD, REST = 0, 1  # folds of a training's splits


class Task(NamedTuple):
    """A training of one arm without the units `held`, whose scored rows are kept at `part`."""

    cfg: ablate.Config
    arm: str
    options: dict[str, Any]
    seed: int
    made: splits.Splits
    held: tuple[str, ...]
    part: Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML of an ablation with `folds: units`")
    parser.add_argument("--items", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", type=lambda text: text.split(";"), help="names to choose from, between semicolons")
    parser.add_argument("--seeds", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("--workers", type=int, default=local.cores())
    given = parser.parse_args(argv)
    flags = {"items": given.items, "folds": "units"} | ({"seeds": given.seeds} if given.seeds else {})
    try:
        run(cast(ablate.Config, load(ablate.Config, given.config, flags, [])), given.arms, given.out, given.workers)
    except CellvisionError as error:
        say(f"nested: {error}")
        return error.exit_code
    return 0


def run(cfg: ablate.Config, names: list[str] | None, out: Path, workers: int) -> None:
    """Train what is missing, choose, score, write."""
    import pandas as pd

    arms = ablate.arms_of(cfg)
    unknown = [name for name in names or () if name not in arms]
    if unknown:
        raise ConfigError(f"no arm {unknown[0]!r}; arms: {'; '.join(arms)}")
    arms = {name: arms[name] for name in names or arms}
    reserved = (cfg.target, (cfg.unit or "").partition("~")[0])
    items = BRANCHES.build(cfg.branch, path=cfg.items, reserved=reserved).items
    split = splits.make(items, independence.unit_column(items, cfg.unit, cfg.units), cfg.folds)
    splits.test_folds(split, "all")
    ablate.check_children(cfg, arms, items, out)
    content = fingerprint([items.content, split.content, ablate.encoder_contents(cfg, arms, (HELD,))])
    units = sorted(set(split.table.loc[split.table["fold"] >= 0, "unit"]))
    tasks = [
        Task(cfg, arm, options, seed, split, units_out, part_of(out, cfg, content, (arm, options, seed, units_out)))
        for units_out in itertools.chain(((unit,) for unit in units), itertools.combinations(units, 2))
        for (arm, options), seed in itertools.product(arms.items(), cfg.seeds)
    ]
    missing = [task for task in tasks if not task.part.exists()]
    for _ in track(local.ordered_map(train, missing, workers), "nested", len(missing), "trainings"):
        pass
    rows = read(tasks)
    chosen, choices = choose(rows, list(arms))
    scored = pd.concat([chosen, logistic(cfg, split, out), rows[rows["held"].map(len) == 1]])
    nothing = pd.DataFrame(columns=["arm", "status", "seed", "balanced_accuracy", "steps_total", "cell_accuracy"])
    no_labels = scored.head(0)  # of single cells: the rows here are scored once
    summary, differences = comparison.compare(nothing, scored, no_labels, LOGISTIC)
    files.write_csv(out / "choices.csv", choices)
    ablate.write(out, summary, differences)
    ablate.report_to_person(out)


def part_of(out: Path, cfg: ablate.Config, content: str, which: tuple[Any, ...]) -> Path:
    """Where a training's scored rows lie: another config, table, arm or pair has another name."""
    keys = ("branch", "target", "unit", "base", "pretrain")
    shared = {key: value for key, value in result_keys(cfg).items() if key in keys}
    return out / "parts" / f"{fingerprint([shared, content, which])}.parquet"


def train(task: Task) -> None:
    """One finetune run in a folder of its own, of which the scored rows are kept."""
    import pandas as pd

    folder = task.part.with_suffix("")
    fold = task.made.table["unit"].isin(task.held).map({True: HELD, False: REST})
    splits.Splits(task.made.table.assign(fold=fold)).write(folder / "splits.csv")
    with contextlib.redirect_stderr(io.StringIO()):  # its own score, of one or two units, tells nobody anything
        row = ablate.run_child((task.cfg, ablate.Child(task.arm, task.options, HELD, task.seed), folder))
    if row["status"] != "ok":
        raise ConfigError(f"arm {task.arm!r} was refused: {row['reason']}")
    files.write_parquet(task.part, pd.read_parquet(folder / row["run"] / "scored.parquet"))
    shutil.rmtree(folder)


def read(tasks: list[Task]) -> pd.DataFrame:
    """The scored rows of every training, with arm, seed and what was held out."""
    import pandas as pd

    parts = [pd.read_parquet(task.part).assign(arm=task.arm, seed=task.seed) for task in tasks]
    return pd.concat(
        [rows.assign(held=[task.held] * len(rows)) for task, rows in zip(tasks, parts, strict=True)], ignore_index=True
    )


def choose(rows: pd.DataFrame, arms: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> the outer rows of each unit's chosen arm, and the choices. The first of equal arms is taken.

    An inner unit counts where a training unit of its class is left beside it and the outer one.
    """
    import pandas as pd

    alone = rows[rows["held"].map(len) == 1]
    units_of = alone.groupby("truth")["unit"].unique().map(set)
    pairs = rows[rows["held"].map(len) == 2]
    left = [bool(units_of[truth] - set(pair)) for truth, pair in zip(pairs["truth"], pairs["held"], strict=True)]
    pairs = pairs[left]
    chosen, choices = [], []
    for outer, outer_rows in alone.groupby("unit"):
        inner = pairs[
            [outer in pair and unit != outer for pair, unit in zip(pairs["held"], pairs["unit"], strict=True)]
        ]
        if inner.empty:
            raise ConfigError(f"without {outer!r} no class has two units left to choose by")
        by_arm = {str(arm): arm_rows for arm, arm_rows in inner.groupby("arm")}
        scores = {arm: metrics.balanced_accuracy(*by_arm[arm][["truth", "predicted"]].to_numpy(str).T) for arm in arms}
        best = max(arms, key=lambda arm: scores[arm])
        chosen.append(outer_rows[outer_rows["arm"] == best].assign(arm=CHOSEN))
        choices.append({"unit": outer, "chosen": best, "inner_units": inner["unit"].nunique(), **scores})
    return pd.concat(chosen), pd.DataFrame(choices)


def logistic(cfg: ablate.Config, made: splits.Splits, out: Path) -> pd.DataFrame:
    """Scored rows of logistic regression, one unit left out at a time."""
    made.write(out / "splits.csv")
    job = finetune.Job(ablate.plain_config(cfg, out).model_copy(update={"seed": 0}))
    rows = baselines.scored_rows(job, "logistic", job.branch.baselines()["logistic"], 1)
    return rows.assign(arm=LOGISTIC, seed=0)


if __name__ == "__main__":
    sys.exit(main())
