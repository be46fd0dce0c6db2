"""embed: a row for every item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny_runs import FOLDS, SOURCES, metrics_of, run

from cellvision import embed


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
