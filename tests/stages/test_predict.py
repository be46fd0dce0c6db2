"""predict: a bundle on new images and items."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny_runs import GROUPS, SOURCES, metrics_of, run

from cellvision import finetune, predict, simulate
from cellvision.core import files
from cellvision.core.errors import ConfigError


def test_predict_cuts_and_classifies_new_images(bundle: Path, cells: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    simulate.run(simulate.Config(seed=1, images=1, height=128, width=160, workers=0), new)
    out = run(predict, tmp_path / "run", model=bundle, raw=new / "raw")
    cut = out / "runs" / "segment"
    geometry, trained = (files.read_json(folder / "geometry.json") for folder in (cut, cells))
    assert geometry["intensity"].pop("reached") != trained["intensity"].pop("reached"), "other images"
    assert geometry == trained
    items, sources = (pd.read_parquet(out / f"{name}.parquet") for name in ("predictions", "sources"))
    assert list(items["item_id"]) == list(pd.read_parquet(cut / "cells.parquet")["item_id"])
    assert len(sources) == 4
    assert set(items["predicted"]) <= set(GROUPS)
    assert "truth" not in items
    assert metrics_of(out)["sources_seen_in_training"] == 0


def test_predict_says_what_it_has_seen_before(bundle: Path, cells: Path, tmp_path: Path) -> None:
    out = run(predict, tmp_path / "run", model=bundle, items=cells)
    assert metrics_of(out)["sources_seen_in_training"] == SOURCES
    assert metrics_of(out)["items"] == len(pd.read_parquet(cells / "cells.parquet"))


def test_a_feature_that_is_missing_is_told(table: Path, tmp_path: Path) -> None:
    branch, quick = {"name": "tabular"}, {"device": "cpu", "threads": 1, "workers": 0}
    learn = {"target": "y", "unit": "donor", "encoder": "mlp-16-8", "fold": "none", "loop": {"steps": 2, "batch": 16}}
    finetune.run(finetune.Config(items=table, branch=branch, **learn, **quick), tmp_path / "model")
    pd.read_csv(table).drop(columns="f3").to_csv(tmp_path / "less.csv", index=False)
    out = tmp_path / "run"
    predict.run(predict.Config(model=tmp_path / "model" / "model", items=tmp_path / "less.csv", **quick), out)
    assert any("f3" in note for note in metrics_of(out)["notes"])


def test_predict_needs_images_or_items(bundle: Path, cells: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of the two"):
        run(predict, tmp_path / "run", model=bundle)
    with pytest.raises(ConfigError, match="no bundle in"):
        run(predict, tmp_path / "run", model=cells, items=cells)
