"""Segment: every file of a raw folder ends in one row, good ones are processed, and the tables add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import write_corpus
from PIL import Image

from cellvision import segment
from cellvision.core import items
from cellvision.core.cli import main


def discs(centres: list[tuple[int, int]], radius: int = 9, side: int = 96) -> np.ndarray:
    """Dark discs on a bright background, (side, side) uint8."""
    y, x = np.mgrid[:side, :side]
    inside = np.any([np.hypot(y - cy, x - cx) <= radius for cy, cx in centres], axis=0)
    return np.where(inside, 60, 200).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_every_odd_file_ends_in_a_row_with_its_reason(tmp_path: Path) -> None:
    expected = write_corpus(tmp_path / "raw" / "odd")
    save(tmp_path / "raw" / "odd" / "cells.png", discs([(30, 30), (60, 64)]))
    command = ["--raw", str(tmp_path / "raw"), "--workers", "0", "--out", str(tmp_path / "cells")]
    assert main("segment", command) == 0
    images = pd.read_parquet(tmp_path / "cells" / "images.parquet").set_index("path")
    assert images.index.is_unique
    unclear = {"ch2.ome.tif", "ch5.ome.tif"}  # they can be read, but somebody has to say which channels to use
    for name, reason in (expected | dict.fromkeys(unclear, "E_CHANNELS")).items():
        row = images.loc[f"odd/{name}"]
        found = row["reason"] if row["status"] != "ok" or row["n_cells"] else "OK_NOTE" if "OK_NOTE" in reason else "OK"
        assert found == reason, f"{name}: expected {reason}, got {row['reason']} ({row['note']})"
    metrics = json.loads((tmp_path / "cells" / "metrics.json").read_text())
    assert metrics["images_ok"] + metrics["images_skipped"] + metrics["images_ignored"] == len(images)
    assert main("segment", [*command, "--strict"]) == 2


def test_cells_crops_and_annotations_agree(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "one.png", discs([(30, 30), (64, 60)]))
    save(tmp_path / "raw" / "b" / "two.png", discs([(48, 48)]))
    points = tmp_path / "points.csv"
    points.write_text(
        "image,x,y,label\na/one.png,30,30,round\none.png,60,64,flat\ntwo.png,5,5,round\nnone.png,1,1,round\n"
    )
    segment.run(segment.Config(raw=tmp_path / "raw", annotations=points, workers=0), tmp_path / "cells")
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet")
    assert sorted(cells["group"]) == ["a", "a", "b"]
    assert cells.set_index("annotation").loc["round", "x"] == pytest.approx(30, abs=1.5)
    matched = pd.read_parquet(tmp_path / "cells" / "annotations.parquet")
    assert sorted(matched["status"]) == ["matched", "matched", "no_image", "outside"]
    crops = items.Crops(tmp_path / "cells" / "crops").take(np.arange(3))
    assert crops.shape[-1] == 2, "grey images and the mask"
    areas = (crops[..., -1] > 0).sum((1, 2))
    assert areas.tolist() == cells["area_px"].tolist(), "an unscaled crop holds the whole mask"
    centre = crops.shape[1] // 2
    assert (crops[:, centre, centre, 0] < 100).all(), "the dark disc is in the middle"


def test_grey_images_among_colour_ones_are_repeated(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "grey.png", discs([(48, 48)]))
    save(tmp_path / "raw" / "a" / "rgb.png", np.repeat(discs([(48, 48)])[..., None], 3, axis=2))
    segment.run(segment.Config(raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    crops = items.Crops(tmp_path / "cells" / "crops").take(np.arange(2))
    assert crops.shape[-1] == 4
    np.testing.assert_array_equal(crops[0, ..., :3], crops[1, ..., :3])


def test_a_file_that_changes_after_the_listing_is_skipped(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "still.png", discs([(48, 48)]))
    save(tmp_path / "raw" / "a" / "moving.png", discs([(30, 30)]))
    cfg = segment.Config(raw=tmp_path / "raw", workers=0)
    entries = segment.scan_folder(cfg)
    save(tmp_path / "raw" / "a" / "moving.png", discs([(60, 60)]))
    images, cells = segment.find_cells(cfg, entries, tmp_path / "cells")
    assert images.set_index("path")["reason"].to_dict() == {"a/moving.png": "E_CHANGED", "a/still.png": "OK"}
    assert set(cells["path"]) == {"a/still.png"}


def test_no_cells_anywhere_exits_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "raw" / "a" / "empty.png", np.full((64, 64), 128, np.uint8))
    assert main("segment", ["--raw", str(tmp_path / "raw"), "--workers", "0", "--out", str(tmp_path / "cells")]) == 3
    assert "--diameter" in capsys.readouterr().err


def test_ready_crops_keep_their_metadata_and_unit(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "crops" / "x" / f"{number}.png", np.full((20, 20 + 2 * number), 40 * number, np.uint8))
    (tmp_path / "meta.csv").write_text(
        "image,label,well,plate\n" + "".join(f"x/{n}.png,{'ab'[n % 2]},w{n // 2},p\n" for n in range(4))
    )
    cfg = segment.Config(crops=tmp_path / "crops", metadata=tmp_path / "meta.csv", unit="well", workers=0)
    segment.run(cfg, tmp_path / "cells")
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet")
    assert cells["unit"].tolist() == ["w0", "w0", "w1", "w1"]
    assert cells["annotation"].tolist() == ["a", "b", "a", "b"]
    assert cells["plate"].tolist() == ["p"] * 4
    assert items.Crops(tmp_path / "cells" / "crops").shape == (26, 26, 2)
