"""finetune: what is scored, what is tuned, which labels count."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_runs import FOLDS, GROUPS, SOURCES, STEPS, metrics_of, run

from cellvision import finetune, predict
from cellvision.commandline.cli import main
from cellvision.core import files
from cellvision.core.errors import ConfigError, StrategyRefused
from cellvision.io import tensorfiles


def test_finetune_scores_every_source_once_where_it_was_unseen(tested: Path, planned: Path, cells: Path) -> None:
    found, sources = metrics_of(tested), pd.read_parquet(tested / "sources.parquet")
    folds = pd.read_csv(planned / "splits.csv").set_index("source_id")["fold"]
    assert len(sources) == sources["source_id"].nunique() == found["scored"] == SOURCES
    assert (folds[sources["source_id"]].to_numpy() == sources["fold"]).all()
    items = pd.read_parquet(tested / "predictions.parquet")
    assert sorted(items["item_id"]) == list(pd.read_parquet(cells / "cells.parquet")["item_id"])
    np.testing.assert_allclose(items[[f"p_{name}" for name in GROUPS]].sum(axis=1), 1, rtol=1e-5)
    assert found["chance"] == 0.25
    assert found["balanced_accuracy_units"] == SOURCES
    assert found["balanced_accuracy_low"] <= found["balanced_accuracy"] <= found["balanced_accuracy_high"]
    assert found["stamps"] == []
    assert {"baseline_colour", "baseline_background", "baseline_size", "probe_item_random", "cell_accuracy"} <= set(
        found
    )
    assert not (tested / "checkpoints").exists()


@pytest.mark.parametrize("tune", ["linear", "last", "whole"])
def test_tuning_moves_what_it_says(cells: Path, planned: Path, pretrained: Path, tmp_path: Path, tune: str) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, encoder=str(pretrained), fold="0", tune=tune)
    folders = pretrained / "encoder", out / "model"
    before, after = (tensorfiles.read(folder / "weights.safetensors")[0] for folder in folders)
    moved = {key for key in before if key.startswith("network.") and not before[key].equal(after[key])}
    last = {key for key in moved if re.match(r"network\.backbone\.(layer4|norm|head)", key)}
    assert bool(moved) == (tune != "linear")
    assert (moved == last) == (tune != "whole")
    card = files.read_json(out / "model" / "encoder.json")
    assert card["steps_total"] == metrics_of(out)["steps_total"] == 6
    assert metrics_of(out)["scored"] == SOURCES // FOLDS


def test_annotations_as_target_are_scored_cell_by_cell(cells: Path, planned: Path, tmp_path: Path) -> None:
    out = run(
        finetune, tmp_path / "run", items=cells, splits=planned, target="annotation", ignore=["debris"], baselines=False
    )
    table, found = pd.read_parquet(cells / "cells.parquet"), metrics_of(out)
    labelled = table["annotation"].notna() & (table["annotation"] != "debris")
    assert found["level"] == "item"
    assert len(pd.read_parquet(out / "predictions.parquet")) == labelled.sum()
    missed = pd.read_parquet(cells / "annotations.parquet")
    missed = missed[missed["status"].isin(["outside", "shared"]) & missed["label"].isin(GROUPS)]
    assert found["missed"] == len(missed)  # a cell that was not found counts as wrong
    assert found["scored"] == labelled.sum() + len(missed)


def test_a_class_with_one_unit_in_a_fold_is_scored(cells: Path, tmp_path: Path) -> None:
    """Four units a class in four folds: each fold tests one of each, and the folds of an ablation are pooled later."""
    out = run(finetune, tmp_path / "run", items=cells, fold="0")
    assert metrics_of(out)["scored"] == len(GROUPS)


def test_a_fraction_of_the_labels_trains_on_fewer_units(cells: Path, planned: Path, tmp_path: Path) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, fold="0", label_fraction=0.5)
    assert files.read_json(out / "model" / "bundle.json")["units"] == 4  # one of the two training units of each group


def test_mil_is_refused_for_few_bags_and_runs_where_that_is_allowed(cells: Path, planned: Path, tmp_path: Path) -> None:
    with pytest.raises(StrategyRefused, match="2 training bags, 10 are needed"):
        run(finetune, tmp_path / "refused", items=cells, splits=planned, strategy="mil")
    arguments = [
        "--items",
        str(cells),
        "--encoder",
        "test_resnet",
        "--strategy",
        "mil",
        "--workers",
        "0",
        "--out",
        str(tmp_path / "cli"),
    ]
    assert main("finetune", arguments) == 4
    allowed = {"name": "mil", "min_bags": 2}
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, strategy=allowed, fold="0", tune="whole")
    assert metrics_of(out)["scored"] == SOURCES // FOLDS


def test_tables_go_through_the_same_verbs(table: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "items": table, "branch": "tabular", "encoder": "mlp-16-8", "unit": "donor", "target": "y", "tune": "whole",
        "loop": {"steps": 60, "batch": 32, "lr": 0.01},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="rows of a table, and ready crops, are not independent"):
        run(finetune, tmp_path / "no unit", **common | {"unit": None})
    found = metrics_of(run(finetune, tmp_path / "run", **common))
    assert found["balanced_accuracy"] > 0.8
    assert found["balanced_accuracy_units"] == 12
    assert found["scored"] == 120
    rows = metrics_of(run(finetune, tmp_path / "rows", **common | {"unit": "row", "loop": STEPS, "baselines": False}))
    assert rows["stamps"] == ["rows assumed independent"]
    model = run(finetune, tmp_path / "all", **common | {"fold": "none"}) / "model"
    again = run(predict, tmp_path / "predict", model=model, items=table)
    guess = pd.read_parquet(again / "predictions.parquet")["predicted"]
    assert (guess.to_numpy() == pd.read_csv(table)["y"].to_numpy()).mean() > 0.8
