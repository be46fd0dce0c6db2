"""rna: importance, and the whole chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_counts import chain, opened

from cellvision import ablate, embed, finetune, importance, plan, predict, pretrain, report
from cellvision.core import files
from cellvision.core.config import build
from cellvision.models import encoders


@pytest.mark.parametrize("model", ["forest", "logistic"])
def test_importance_finds_the_genes_that_matter(expression: Path, tmp_path: Path, model: str) -> None:
    cfg = {
        "items": expression,
        "target": "kind",
        "unit": "donor",
        "model": model,
        "candidates": 15,
        "top": 6,
        "threads": 1,
    }
    chain(plan, tmp_path / "plan", expression, folds=2)
    importance.run(build(importance.Config, cfg | {"splits": tmp_path / "plan" / "splits.csv"}), tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "importance.csv")
    assert set(table["feature"].head(6)) <= {f"g{number:03d}" for number in range(6)} | set(table["feature"].iloc[5:6])
    assert table["importance"].iloc[0] > 0.02
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["top6_jaccard"] > 0.4
    assert found["balanced_accuracy"] > 0.9


def test_the_whole_chain_runs_on_counts(expression: Path, tmp_path: Path) -> None:
    planned = chain(plan, tmp_path / "plan", expression)
    assert planned["units"] == 12
    splits = {"splits": tmp_path / "plan" / "splits.csv"}
    ssl = {"method": "simclr", "encoder": "mlp-32-16", "loop": {"steps": 200, "batch": 48, "lr": 0.003}}
    learned = chain(pretrain, tmp_path / "ssl", expression, **splits, **ssl, fold="0")
    assert learned["loss"] < learned["chance"]
    found = chain(embed, tmp_path / "emb", expression, **splits, encoder=str(tmp_path / "ssl"))
    assert found["folds_probed"] == 1
    assert found["linear_balanced_accuracy"] > 0.7
    tuned = chain(
        finetune,
        tmp_path / "ft",
        expression,
        **splits,
        encoder=str(tmp_path / "ssl"),
        fold="0",
        tune="whole",
        loop={"steps": 40, "lr": 0.01},
    )
    assert tuned["balanced_accuracy"] > 0.8
    again = chain(predict, tmp_path / "new", model=tmp_path / "ft" / "model", items=expression)
    assert again["items"] == 120
    arms = {
        "base": {"tune": "whole", "loop": {"steps": 20, "lr": 0.01}},
        "factors": {"encoder": ["mlp-16", "cnn-8"]},
        "seeds": (0,),
    }
    chain(ablate, tmp_path / "ablation", expression, **splits, **arms, folds=2)
    page = tmp_path / "report.html"
    report.run(report.Config(run=tmp_path / "ablation"), page)
    assert "cnn-8" in page.read_text("utf-8")


def test_a_saved_encoder_brings_its_own_genes_and_bins(expression: Path, tmp_path: Path) -> None:
    branch = opened(expression, genes=20)
    made = encoders.resolve("transformer-1x8x2", branch, np.arange(60), 0)
    facts = {"network": made.name, "branch": "rna", "schema": branch.schema(), "origin": ""}
    encoders.save(tmp_path / "one", made.module, made.state, facts, made.seen)
    other = opened(expression, genes=5, bins=7, target_sum=100.0)
    back = encoders.load(tmp_path / "one", other)
    assert other.cfg.target_sum == 1e4
    for name, value in made.state.items():
        np.testing.assert_array_equal(back.state[name], value)
    rows = np.arange(70, 90)
    np.testing.assert_array_equal(
        encoders.embed(made.module, branch, made.state, rows), encoders.embed(back.module, other, back.state, rows)
    )
