"""cluster goes on from a trained encoder for every branch of the registry."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cellvision import importance
from cellvision.__main__ import dispatch
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build


@pytest.mark.parametrize("name", BRANCHES.names())
def test_features_of_an_encoder_are_clustered(name: str, tmp_path: Path) -> None:
    sample = BRANCHES.load(name).sample(tmp_path)
    options = [text for key, value in sample.options.items() for text in ("--set", f"branch.{key}={value}")]
    command = ["cluster", "--items", str(sample.items), "--branch", name, *options, "--encoder", sample.encoder]
    quick = ["--projections", "pca", "--method", "louvain", "--repeats", "1", "--workers", "0"]
    assert dispatch([*command, *quick, "--out", str(tmp_path / "run")]) == 0
    found = files.read_json(tmp_path / "run" / "metrics.json")
    clusters = pd.read_csv(tmp_path / "run" / "clusters.csv")
    assert clusters["cluster"].nunique() == found["clusters"]
    opened = BRANCHES.build({"name": name, **sample.options}, path=sample.items)
    rows = opened.items.table.index.to_numpy()
    has_names = opened.feature_names(opened.fit(rows)) is not None
    assert (tmp_path / "run" / "markers.csv").exists() == has_names


@pytest.mark.parametrize("name", ["tabular", "rna"])
def test_every_column_of_a_batch_has_a_name(name: str, tmp_path: Path) -> None:
    opened = BRANCHES.build(name, path=BRANCHES.load(name).sample(tmp_path).items)
    rows = opened.items.table.index.to_numpy()
    state = opened.fit(rows)
    names = opened.feature_names(state)
    assert names is not None
    assert len(set(names)) == len(names) == opened.batch(rows[:2], state).shape[1]


def test_a_feature_with_gaps_has_an_importance(table: Path, tmp_path: Path) -> None:
    options = {"items": table, "branch": "tabular", "target": "y", "unit": "donor", "model": "logistic"}
    importance.run(build(importance.Config, options), tmp_path / "run")
    features = pd.read_csv(tmp_path / "run" / "importance.csv")["feature"].tolist()
    assert "f4 missing" in features
    assert set(features[:2]) == {"f0", "f1"}
