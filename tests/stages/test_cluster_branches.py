"""cluster goes on from a trained encoder for every branch of the registry."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_chain import SAMPLES

from cellvision import importance
from cellvision.__main__ import dispatch
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build


@pytest.mark.parametrize("name", BRANCHES.names())
def test_features_of_an_encoder_are_clustered(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    sample = SAMPLES[name](request, tmp_path)
    branch = [part for part in sample.options if part not in ("--unit", "donor")]
    command = ["cluster", "--items", str(sample.items), "--branch", name, *branch, "--encoder", sample.encoder]
    quick = ["--projections", "pca", "--method", "louvain", "--repeats", "1", "--workers", "0"]
    assert dispatch([*command, *quick, "--out", str(tmp_path / "run")]) == 0
    found = files.read_json(tmp_path / "run" / "metrics.json")
    clusters = pd.read_csv(tmp_path / "run" / "clusters.csv")
    assert clusters["cluster"].nunique() == found["clusters"]
    opened = BRANCHES.build({"name": name, **({"size": 32} if name == "image" else {})}, path=sample.items)
    rows = opened.items.table.index.to_numpy()
    has_names = opened.feature_names(opened.fit(rows)) is not None
    assert (tmp_path / "run" / "markers.csv").exists() == has_names


@pytest.mark.parametrize("name", ["tabular", "rna"])
def test_every_column_of_a_batch_has_a_name(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    opened = BRANCHES.build(name, path=SAMPLES[name](request, tmp_path).items)
    rows = opened.items.table.index.to_numpy()
    state = opened.fit(rows)
    names = opened.feature_names(state)
    assert len(set(names)) == len(names) == opened.batch(rows[:2], state).shape[1]


def test_a_feature_with_gaps_has_an_importance(table: Path, tmp_path: Path) -> None:
    options = {"items": table, "branch": "tabular", "target": "y", "unit": "donor", "model": "logistic"}
    importance.run(build(importance.Config, options), tmp_path / "run")
    features = pd.read_csv(tmp_path / "run" / "importance.csv")["feature"].tolist()
    assert "f4 missing" in features
    assert set(features[:2]) == {"f0", "f1"}
