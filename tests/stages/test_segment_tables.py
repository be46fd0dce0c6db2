"""segment: its tables and crops account for everything, with the same bits for any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_runs import GROUPS, SOURCES, metrics_of

from cellvision import segment
from cellvision.cells.cropstore import Crops
from cellvision.core.rundir import content_of


def test_segment_accounts_for_every_file_and_every_crop(simulated: Path, cells: Path) -> None:
    found, table, images = (
        metrics_of(cells),
        pd.read_parquet(cells / "cells.parquet"),
        pd.read_parquet(cells / "images.parquet"),
    )
    assert found["files"] == found["images_ok"] == len(images) == SOURCES
    assert len(table) == found["cells"] == images["n_cells"].sum() == len(Crops(cells / "crops"))
    assert set(table["group"]) == set(GROUPS)
    assert table["item_id"].is_monotonic_increasing
    counted = [found[f"annotations_{status}"] for status in ("matched", "outside", "shared")]
    assert sum(counted) == found["annotations"] == metrics_of(simulated)["cells"]
    assert table["annotation"].notna().sum() == found["annotations_matched"] > 0.7 * found["annotations"]
    assert not (cells / "parts").exists()


def test_a_crop_holds_the_mask_of_its_cell(cells: Path) -> None:
    table = pd.read_parquet(cells / "cells.parquet")
    whole = np.flatnonzero((table["scale"] == 1) & ~table["touches_border"])[:20]
    crops = Crops(cells / "crops").take(whole)
    assert ((crops[..., -1] > 0).sum((1, 2)) == table["area_px"].to_numpy()[whole]).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_segment_gives_the_same_bits_with_any_number_of_workers(
    simulated: Path, cells: Path, tmp_path: Path, workers: int
) -> None:
    made = segment.Config(
        segmenter="threshold", raw=simulated / "raw", annotations=simulated / "truth" / "points.csv", workers=workers
    )
    segment.run(made, tmp_path / "run")
    assert content_of(tmp_path / "run") == content_of(cells)
