"""Ready crops: what is one unit among them has to be said; channels that do not fit are no crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from corpus import tiff
from raw_images import put
from tiny_runs import metrics_of, run

from cellvision import finetune, plan, segment
from cellvision.core import files
from cellvision.core.errors import ConfigError

CROPS, SLIDES = 24, 6


def stacked(pixels: Any) -> bytes:
    """(C, H, W) -> a TIFF whose channels are samples."""
    return tiff(pixels[0]) if len(pixels) == 1 else tiff(pixels, photometric="minisblack", planarconfig="separate")


def write(folder: Path, slides: list[str], channels: int = 1) -> tuple[Path, Path]:
    """Crops of noise, each class on every slide -> the folder and its metadata."""
    rng = np.random.default_rng(0)
    rows = []
    for number, slide in enumerate(slides):
        pixels = rng.integers(0, 256, (channels, 24, 24), np.uint8)
        put(folder / "crops" / f"{number}.tif", stacked(pixels))
        rows.append((f"{number}.tif", "ab"[number % 2], slide, f"note {number}", "AB"[number % 2]))
    table = pd.DataFrame(rows, columns=["image", "label", "slide", "note", "class"])
    table.to_csv(folder / "meta.csv", index=False)
    return folder / "crops", folder / "meta.csv"


def taken(folder: Path, slides: list[str], unit: str | None = None, channels: int = 1) -> Path:
    crops, metadata = write(folder, slides, channels)
    segment.run(segment.Config(crops=crops, metadata=metadata, unit=unit, workers=0), folder / "cells")
    return folder / "cells"


SLIDE = [f"S{number // 4}" for number in range(CROPS)]


def test_crops_without_a_unit_are_refused_and_the_likely_column_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = taken(tmp_path, SLIDE)
    assert r"--unit (perhaps slide), or say --unit row" in capsys.readouterr().err
    for stage in (plan, finetune):
        with pytest.raises(ConfigError, match=r"ready crops, are not independent.*\(perhaps slide\)"):
            run(stage, tmp_path / "refused", items=cells, target="annotation")


def test_crops_by_slide_or_said_to_be_independent(tmp_path: Path) -> None:
    cells = taken(tmp_path, SLIDE)
    by_slide = files.read_json(run(plan, tmp_path / "slides", items=cells, unit="slide") / "plan.json")
    assert (by_slide["units"], by_slide["stamps"]) == (SLIDES, [])
    by_crop = files.read_json(run(plan, tmp_path / "rows", items=cells, unit="row") / "plan.json")
    assert (by_crop["units"], by_crop["stamps"]) == (CROPS, ["rows assumed independent"])
    tested = run(finetune, tmp_path / "tested", items=cells, unit="row", target="annotation", baselines=False)
    assert metrics_of(tested)["stamps"] == ["rows assumed independent"]


def test_a_crop_without_a_slide_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"meta.csv, line 4, column 'slide': 2 crops have no unit"):
        taken(tmp_path, ["S1", "S1", "", "S2", "", "S2"], "slide")


def test_slides_in_several_spellings_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = taken(tmp_path, ["D01", "d01", "D01 ", "D02", "Café", "Cafe\u0301"], "slide")
    assert pd.read_parquet(cells / "cells.parquet")["unit"].nunique() == 3
    assert "units: 2 are spelled in several ways and taken as one" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [2, 4])
def test_all_channels_of_crops_are_kept_aloud_and_crops_with_fewer_are_skipped(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crops, metadata = write(tmp_path, SLIDE[:6], channels)
    other = np.zeros((3 if channels == 4 else 1, 24, 24), np.uint8)
    put(crops / "0.tif", stacked(other))
    segment.run(segment.Config(crops=crops, metadata=metadata, unit="slide", workers=0), tmp_path / "cells")
    assert f"all {channels} channels are kept" in capsys.readouterr().err
    images = pd.read_parquet(tmp_path / "cells" / "images.parquet").set_index("path")
    assert images.loc["0.tif", "reason"] == ("E_CHANNELS" if channels == 4 else "OK")
    assert files.read_json(tmp_path / "cells" / "geometry.json")["channels"] == channels
