"""Real traces: what the reader makes of them, and a small network on an unseen replicate."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cellvision import finetune
from cellvision.branches.trace.branch import TraceBranch
from cellvision.core import files
from cellvision.evidence import splits

FIELD = r"ID~^(r\d_[A-Z]+_\d+)_"


def test_kinase_traces_have_two_channels_gaps_and_named_classes(realdata: Path) -> None:
    branch = TraceBranch(TraceBranch.Config(), realdata / "traces_codex" / "erkakt")
    assert branch.channels == ("ERK", "AKT")
    assert branch.traces.shape == (2, 600)
    assert set(branch.items.table["class"]) == {"BTC", "CTR", "EGF", "EPR", "HGF", "HRG", "IGF"}
    assert splits.resolve(branch.items, None, FIELD, None).table["unit"].nunique() == 97
    assert splits.resolve(branch.items, None, "ID~^(r\\d)", None).table["unit"].nunique() == 2


def test_a_network_tells_growth_factors_in_unseen_fields(realdata: Path, tmp_path: Path) -> None:
    cfg = finetune.Config.model_validate(
        {"items": realdata / "traces_codex" / "erkakt", "branch": {"name": "trace", "points": 100}, "target": "class",
         "unit": FIELD, "encoder": "cnn-16-32-64", "tune": "whole", "fold": "0", "workers": 0, "threads": 1,
         "loop": {"steps": 120, "batch": 48, "lr": 0.005}}
    )  # fmt: skip
    finetune.run(cfg, tmp_path / "run")
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["balanced_accuracy"] > 2 * found["chance"]
    assert "mean_absolute_error" not in found
    rows = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    assert rows["unit"].nunique() == found["balanced_accuracy_units"]
