"""Small runs on real images: what a lab's folders, annotations and crops do in the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from cellvision import finetune, segment
from cellvision.core import files
from cellvision.io.images.reader import read_image


def sample(source: Path, target: Path, count: int) -> Path:
    """The first images of a folder, copied."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        shutil.copy(path, target / path.name)
    return target


def test_annotated_points_of_smears_lie_alone_in_a_cell(realdata: Path, tmp_path: Path) -> None:
    images = sample(realdata / "rbc_chula12" / "images", tmp_path / "raw" / "smears", 8)
    points = pd.read_csv(realdata / "rbc_chula12" / "points.csv")
    names = {path.name for path in images.iterdir()}
    points[points["image"].isin(names)].to_csv(tmp_path / "points.csv", index=False)
    cfg = segment.Config(raw=tmp_path / "raw", annotations=tmp_path / "points.csv", workers=0)
    segment.run(cfg, tmp_path / "cells")
    found = files.read_json(tmp_path / "cells" / "metrics.json")
    assert found["images_ok"] == 8
    assert found["annotations_matched_share"] >= 0.8


def test_ready_crops_are_split_by_well_and_the_inflation_shows(realdata: Path, tmp_path: Path) -> None:
    meta = pd.read_csv(realdata / "mitocheck_crops" / "meta.csv", dtype=str)
    common = meta["label"].value_counts().index[:3]
    meta[meta["label"].isin(common)].to_csv(tmp_path / "meta.csv", index=False)
    cfg = segment.Config(
        crops=realdata / "mitocheck_crops", metadata=tmp_path / "meta.csv", unit="plate_well", workers=0
    )
    segment.run(cfg, tmp_path / "cells")
    tuned = finetune.Config.model_validate(
        {"items": tmp_path / "cells", "target": "annotation", "encoder": "test_resnet", "branch": {"size": 32},
         "loop": {"steps": 30}, "workers": 0, "threads": 1}
    )  # fmt: skip
    finetune.run(tuned, tmp_path / "tuned")
    found = files.read_json(tmp_path / "tuned" / "metrics.json")
    assert found["level"] == "item"
    assert found["balanced_accuracy_units"] <= meta["plate_well"].nunique()
    assert found["probe_item_random"] > found["probe_unit_out"] - 0.05
    folds = pd.read_parquet(tmp_path / "tuned" / "predictions.parquet").groupby("unit")["fold"].nunique()
    assert folds.max() == 1, "a well stands in one fold"


@pytest.mark.parametrize(
    ("name", "channels", "dtype"),
    [("fluor_multichannel/human_ht29.tif", 3, "uint8"), ("usiigaci_t98g/images/set11.tif", 1, "uint16")],
)
def test_microscope_files_keep_channels_and_depth(realdata: Path, name: str, channels: int, dtype: str) -> None:
    image = read_image(realdata / name)
    assert image.pixels.shape[2] == channels
    assert image.dtype == dtype
