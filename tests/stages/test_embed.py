"""embed: a row for every item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_runs import FOLDS, SOURCES, metrics_of, run

from cellvision import embed
from cellvision.core.errors import ConfigError


def test_what_no_class_can_be_scored_on_is_not_probed(table: Path, tmp_path: Path) -> None:
    options = {"items": table, "branch": {"name": "tabular"}, "unit": "donor", "target": "donor"}
    out = tmp_path / "run"
    embed.run(embed.Config(**options, encoder="mlp-16-8", device="cpu", threads=1), out)
    assert "two units" in metrics_of(out)["not_probed"]


def test_an_encoder_that_is_not_there_is_named_before_anything_is_claimed(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no encoder at"):
        embed.run(embed.Config(items=cells, encoder=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_embed_writes_one_row_an_item(cells: Path, planned: Path, pretrained: Path, tmp_path: Path) -> None:
    import anndata

    out = run(embed, tmp_path / "run", items=cells, splits=planned, encoder=str(pretrained))
    table, data = pd.read_parquet(cells / "cells.parquet"), anndata.read_h5ad(out / "embeddings.h5ad")
    assert list(data.obs_names) == list(table["item_id"])
    assert np.isfinite(data.X).all()
    found = metrics_of(out)
    assert found["folds_probed"] == 1  # the encoder has seen the other
    assert found["linear_balanced_accuracy_units"] == SOURCES // FOLDS
    assert found["linear_level"] == "source"
