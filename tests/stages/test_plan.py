"""plan: units dealt into folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tiny_runs import FOLDS, IMAGES, run

from cellvision import plan
from cellvision.core import files


def test_a_unit_of_several_groups_is_counted_once(tmp_path: Path) -> None:
    rows = [{"donor": f"d{n // 4}", "group": "ab"[n % 2], "f": n * n % 7, "y": n % 3} for n in range(24)]
    pd.DataFrame(rows).to_csv(tmp_path / "cells.csv", index=False)
    branch = {"name": "tabular"}
    out = run(plan, tmp_path / "run", items=tmp_path / "cells.csv", branch=branch, unit="donor")
    assert "6 units in" in files.read_json(out / "plan.json")["claims"][0]


def test_plan_deals_units_into_folds(planned: Path) -> None:
    found, table = files.read_json(planned / "plan.json"), pd.read_csv(planned / "splits.csv")
    assert found["folds"] == table["fold"].nunique() == FOLDS
    assert all(
        group["units"] == IMAGES and group["evaluated"] and not group["mil"] for group in found["groups"].values()
    )
    assert (table.groupby("fold")["group"].nunique() == 4).all()
