"""The tabular branch: new data aligned by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import QUICK, branch_of, learn, saved

from cellvision import predict, pretrain
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError


@pytest.fixture
def wide(tmp_path: Path) -> dict[str, Any]:
    """Ten features and a category, as columns."""
    rng = np.random.default_rng(0)
    return {f"f{n}": rng.normal(size=12) + n for n in range(10)} | {"stain": ["red", "blue"] * 6}


def test_features_are_aligned_by_name(wide: dict[str, Any], tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", **wide), categorical=["stain"])
    new = branch_of(saved(tmp_path / "new.csv", extra=range(12), **dict(reversed(wide.items()))), categorical=["stain"])
    rows, state = np.arange(12), old.fit(np.arange(12))
    assert new.align(old.schema()) == []
    assert np.array_equal(new.batch(rows, state), old.batch(rows, state))
    assert new.align(old.schema()) == []


def test_missing_features_are_listed_and_refused_below_80_percent(wide: dict[str, Any], tmp_path: Path) -> None:
    del wide["stain"]
    old = branch_of(saved(tmp_path / "old.csv", **wide))
    rows, state = np.arange(12), old.fit(np.arange(12))
    eight = branch_of(saved(tmp_path / "8.csv", **{name: wide[name] for name in list(wide)[2:]}))
    assert eight.align(old.schema()) == ["missing features, taken as unknown: 'f0', 'f1'"]
    found = eight.batch(rows, state)
    assert np.array_equal(found[:, 2:], old.batch(rows, state)[:, 2:])
    assert np.ptp(found[:, :2], axis=0).max() == 0
    seven = branch_of(saved(tmp_path / "7.csv", **{name: wide[name] for name in list(wide)[3:]}))
    with pytest.raises(ConfigError, match="3 of the model's 10 features are missing: 'f0', 'f1', 'f2'; at least 80 %"):
        seven.align(old.schema())


def test_unseen_categories_are_counted(wide: dict[str, Any], tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", **wide), categorical=["stain"])
    new = branch_of(saved(tmp_path / "new.csv", **wide | {"stain": ["green"] * 3 + ["red"] * 9}), categorical=["stain"])
    assert new.align(old.schema()) == ["column 'stain': 3 rows hold categories never seen ('green')"]
    codes = new.batch(np.arange(12), old.fit(np.arange(12)))[:, -1]
    assert codes.tolist() == [0, 0, 0] + [2] * 9


def test_a_number_as_category_is_the_same_beside_a_gap(tmp_path: Path) -> None:
    old = branch_of(saved(tmp_path / "old.csv", x=[1.5, 2, 3], stage=[1, 2, 2]), categorical=["stage"])
    new = branch_of(saved(tmp_path / "new.csv", x=[1.5, 2, 3], stage=[2, np.nan, 1]), categorical=["stage"])
    assert new.align(old.schema()) == []
    assert new.batch(np.arange(3), old.fit(np.arange(3)))[:, -1].tolist() == [2, 0, 1]


def test_a_model_that_has_seen_the_answer_is_refused(tmp_path: Path, table: Path) -> None:
    coded = saved(tmp_path / "t.csv", **pd.read_csv(table).assign(y=lambda t: (t["y"] == "sick").astype(int)))
    given = {"items": coded, "branch": "tabular", "unit": "donor", "encoder": "mlp-8", "loop": {"steps": 2}} | QUICK
    pretrain.run(build(pretrain.Config, given), tmp_path / "ssl")
    with pytest.raises(ConfigError, match="learned from 'y', which is a label"):
        learn(coded, tmp_path / "run", encoder=str(tmp_path / "ssl"), target="y", unit="donor", fold="0")


def test_predict_lists_what_is_missing_and_new(mixed: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"branch": {"name": "tabular", "categorical": ["stain"], "exclude": ["donor"]}}
    learn(mixed, tmp_path / "run", encoder="mlp-8", target="y", unit="donor", fold="none", **options)
    new = pd.read_csv(mixed).drop(columns=["y", "donor"]).assign(stain="violet")
    path = saved(tmp_path / "new.csv", **new)
    config = build(predict.Config, {"model": tmp_path / "run" / "model", "items": path} | QUICK)
    predict.run(config, tmp_path / "predicted")
    notes = files.read_json(tmp_path / "predicted" / "metrics.json")["notes"]
    assert notes == ["column 'stain': 80 rows hold categories never seen ('violet')"]
    assert len(pd.read_parquet(tmp_path / "predicted" / "predictions.parquet")) == 80
