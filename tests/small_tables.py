"""Tables as files, opened and learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellvision import finetune
from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build

QUICK = {"workers": 0, "threads": 1, "device": "cpu"}


def saved(path: Path, **columns: Any) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def branch_of(path: Path, *reserved: str, **options: Any) -> Any:
    return BRANCHES.build({"name": "tabular", **options}, path=path, reserved=reserved)


def learn(path: Path, out: Path, **options: Any) -> dict[str, Any]:
    """A finetune run on a table; -> its metrics."""
    given = {
        "items": path,
        "branch": "tabular",
        "tune": "whole",
        "loop": {"steps": 60, "batch": 32, "lr": 0.01},
    } | QUICK
    finetune.run(build(finetune.Config, given | options), out)
    return dict(files.read_json(out / "metrics.json"))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """80 rows of 16 donors: the answer stands in `stain` (text) and in where `size` is missing, not in `noise`."""
    rng = np.random.default_rng(0)
    y = np.arange(80) // 5 % 2
    size = np.where((y == 1) & (rng.random(80) < 0.7), np.nan, rng.normal(size=80))
    return saved(
        tmp_path / "mixed.csv", Metadata_Plate=np.arange(80) % 3, ImageNumber=np.arange(80), donor=np.arange(80) // 5,
        noise=rng.normal(size=80), size=size, stain=np.where(rng.random(80) < 0.9, np.where(y, "red", "blue"), "green"),
        y=np.where(y, "sick", "well"),
    )  # fmt: skip
