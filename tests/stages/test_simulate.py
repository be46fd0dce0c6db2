"""simulate: images and their truth."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tiny_runs import GROUPS, IMAGES, SOURCES, metrics_of


def test_simulate_writes_images_and_their_truth(simulated: Path) -> None:
    assert sorted(path.parent.name for path in (simulated / "raw").rglob("*.png")) == sorted(GROUPS * IMAGES)
    truth = pd.read_parquet(simulated / "truth" / "cells.parquet")
    assert len(list((simulated / "truth" / "masks").rglob("*.tif"))) == SOURCES
    assert len(truth) == metrics_of(simulated)["cells"] == len(pd.read_csv(simulated / "truth" / "points.csv"))
    assert not (simulated / "truth" / "parts").exists()
