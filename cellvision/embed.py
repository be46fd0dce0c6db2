"""Stage: items and an encoder -> embeddings.h5ad (obs = the items table), kNN and linear probes on unseen units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellvision.branches import BRANCHES, Branch, BranchConfig
from cellvision.core import baselines, encoders, files, loop, metrics, scoring, splits, targets
from cellvision.core.config import StageConfig, option
from cellvision.core.progress import say
from cellvision.core.rng import torch_seed
from cellvision.core.rundir import RunDir

REVISION = 1


class Config(StageConfig):
    """Options of `embed`."""

    items: Path = option(..., "a segment run, or a file of a one-dimensional branch", runtime=True)
    branch: BranchConfig = option("image", "image or tabular")  # type: ignore[valid-type]
    target: str = option("group", "what the probes look for: group, annotation, or a column")
    splits: Path | None = option(None, "splits.csv of a plan run; made the same way when absent", runtime=True)
    unit: str | None = option(None, "column of independent units, or COLUMN~REGEX, or row")
    units: Path | None = option(None, "CSV source_id,unit that coarsens the units", runtime=True)
    fold: str = option("all", "folds the probes are tested on: all, or one")
    encoder: str | None = option(None, "network, NAME@imagenet, NAME@FILE, embedded name or pretrain run", runtime=True)
    transductive: bool = option(False, "allow an encoder that saw test sources; stamps the result")
    neighbours: int = option(10, "of the kNN probe", ge=1)
    short = {"view": "branch.view", "size": "branch.size"}


def run(cfg: Config, out: Path) -> None:
    """Embed every item once; probe the embedding on unseen units."""
    branch: Branch = BRANCHES.load(cfg.branch.name)(
        cfg.branch, cfg.items, (cfg.target, (cfg.unit or "").partition("~")[0])
    )  # type: ignore[attr-defined]
    made = splits.resolve(branch.items, cfg.splits, cfg.unit, cfg.units)
    spec = cfg.encoder or branch.default_encoder
    device = loop.pick_device(cfg.device, cfg.threads)
    inputs = {"items": branch.items.content, "splits": made.content, "encoder": encoders.describe(spec)}
    with RunDir.claim(out, "embed", cfg, inputs, REVISION) as claimed:
        if claimed.done:
            return
        claimed.note(device=str(device), threads=torch.get_num_threads())
        fold = made.fold_of(branch.items)
        fitted = np.flatnonzero(fold != int(cfg.fold)) if cfg.fold.isdigit() else np.arange(len(fold))
        trained = encoders.resolve(spec, branch, fitted, torch_seed(cfg.seed, "encoder"))
        trained.module.to(device)
        features = encoders.embed(trained.module, branch, trained.state, np.arange(len(fold)))
        write_h5ad(out / "embeddings.h5ad", features, branch, made)
        found: dict[str, Any] = {
            "items": len(features),
            "features": features.shape[1],
            "rank": metrics.effective_rank(features),
        }
        if can_be_probed(branch, made, cfg):
            found |= probe(cfg, branch, made, features, set(trained.seen))
            say(f"embed: kNN {found['knn_balanced_accuracy']:.3f}, linear {found['linear_balanced_accuracy']:.3f} (chance {found['linear_chance']:.3f}), "
                f"{found['linear_level']}s of {found['linear_balanced_accuracy_units']} unseen units -> {out}")  # fmt: skip
        claimed.finish(found)


def can_be_probed(branch: Branch, made: splits.Splits, cfg: Config) -> bool:
    """Two classes and two folds, or there is nothing to probe for."""
    table = branch.items.table
    return cfg.target in table and table[cfg.target].nunique() > 1 and made.folds > 1


def probe(cfg: Config, branch: Branch, made: splits.Splits, features: Any, seen: set[str]) -> dict[str, Any]:
    """kNN and balanced logistic regression, fitted on training units, scored on unseen ones."""
    import pandas as pd

    target = targets.read(branch.items, cfg.target)
    fold, unit = made.fold_of(branch.items), made.unit_of(branch.items)
    folds = splits.test_folds(made, cfg.fold)
    tested = set(branch.items.table["source_hash"][np.isin(fold, folds)])
    stamp = splits.guard(seen, tested, f"encoder {cfg.encoder!r}", cfg.transductive)
    parts: dict[str, list[Any]] = {"knn": [], "linear": []}
    for number in folds:
        train, test = (np.flatnonzero((target.label >= 0) & where) for where in (fold != number, fold == number))
        known = features[train], target.label[train]
        votes = metrics.knn_predict(*known, features[test], cfg.neighbours)
        guesses = {
            "knn": np.eye(len(target.classes))[votes],
            "linear": baselines.fit_predict("logistic", *known, features[test], len(target.classes), 0),
        }
        table = branch.items.table[["item_id", "source_id"]].iloc[test].assign(unit=unit[test], fold=number)
        for name, guess in guesses.items():
            parts[name].append(scoring.predictions(table, guess, target.classes, target.text(test)))
    found: dict[str, Any] = {"stamps": [stamp] if stamp else []}
    for name, tables in parts.items():
        items = pd.concat(tables, ignore_index=True)
        scored = scoring.scored_rows(
            target, items, scoring.of_sources(items, target.classes), branch.items.missed.assign(unit="").iloc[:0]
        )
        found |= {f"{name}_{key}": value for key, value in scoring.summarise(target, scored, items).items()}
    return found


def write_h5ad(path: Path, features: Any, branch: Branch, made: splits.Splits) -> None:
    """X (items, features) float32; obs the items table with unit and fold as used."""
    import anndata

    table = branch.items.table.assign(unit=made.unit_of(branch.items), fold=made.fold_of(branch.items)).set_index(
        "item_id"
    )
    for name in table.columns:
        if table[name].dtype == object:
            table[name] = table[name].astype("string").astype("category")
    table.index = table.index.astype(str)
    with files.atomic(path) as temporary:
        anndata.AnnData(features, obs=table).write_h5ad(temporary)


if __name__ == "__main__":
    from cellvision.core.cli import main

    raise SystemExit(main("embed"))
