"""plan: units dealt into folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tiny_runs import FOLDS, IMAGES

from cellvision.core import files


def test_plan_deals_units_into_folds(planned: Path) -> None:
    found, table = files.read_json(planned / "plan.json"), pd.read_csv(planned / "splits.csv")
    assert found["folds"] == table["fold"].nunique() == FOLDS
    assert all(
        group["units"] == IMAGES and group["evaluated"] and not group["mil"] for group in found["groups"].values()
    )
    assert (table.groupby("fold")["group"].nunique() == 4).all()
