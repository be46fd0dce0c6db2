"""Segment: every file of a raw folder ends in one row, good ones are processed, and the tables add up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus import write_corpus
from PIL import Image

from cellvision import report, segment
from cellvision.cells import crop, cropstore, modes, quality
from cellvision.commandline.cli import main
from cellvision.core.errors import ConfigError
from cellvision.io import labelmaps
from cellvision.simulators.figures import arbor


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
    command = [
        "--segmenter",
        "threshold",
        "--raw",
        str(tmp_path / "raw"),
        "--workers",
        "0",
        "--out",
        str(tmp_path / "cells"),
    ]
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
    segment.run(
        segment.Config(segmenter="threshold", raw=tmp_path / "raw", annotations=points, workers=0), tmp_path / "cells"
    )
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet")
    assert sorted(cells["group"]) == ["a", "a", "b"]
    assert cells.set_index("annotation").loc["round", "x"] == pytest.approx(30, abs=1.5)
    matched = pd.read_parquet(tmp_path / "cells" / "annotations.parquet")
    assert sorted(matched["status"]) == ["matched", "matched", "no_image", "outside"]
    crops = cropstore.Crops(tmp_path / "cells" / "crops").take(np.arange(3))
    assert crops.shape[-1] == 2, "grey images and the mask"
    areas = (crops[..., -1] > 0).sum((1, 2))
    assert areas.tolist() == cells["area_px"].tolist(), "an unscaled crop holds the whole mask"
    centre = crops.shape[1] // 2
    assert (crops[:, centre, centre, 0] < 100).all(), "the dark disc is in the middle"


def test_grey_images_among_colour_ones_are_repeated(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "grey.png", discs([(48, 48)]))
    save(tmp_path / "raw" / "a" / "rgb.png", np.repeat(discs([(48, 48)])[..., None], 3, axis=2))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    crops = cropstore.Crops(tmp_path / "cells" / "crops").take(np.arange(2))
    assert crops.shape[-1] == 4
    np.testing.assert_array_equal(crops[0, ..., :3], crops[1, ..., :3])


def test_a_file_that_changes_after_the_listing_is_skipped(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "still.png", discs([(48, 48)]))
    save(tmp_path / "raw" / "a" / "moving.png", discs([(30, 30)]))
    cfg = segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0)
    entries = segment.scan_images(cfg)
    save(tmp_path / "raw" / "a" / "moving.png", discs([(60, 60)]))
    images, cells = segment.find_cells(cfg, entries, tmp_path / "cells")
    assert images.set_index("path")["reason"].to_dict() == {"a/moving.png": "E_CHANGED", "a/still.png": "OK"}
    assert set(cells["path"]) == {"a/still.png"}


def test_no_cells_anywhere_exits_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "raw" / "a" / "empty.png", np.full((64, 64), 128, np.uint8))
    assert main("segment", ["--raw", str(tmp_path / "raw"), "--workers", "0", "--out", str(tmp_path / "cells")]) == 3
    assert "--diameter" in capsys.readouterr().err


def test_files_that_are_no_images_are_no_question_of_diameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "one.png").write_text("hello")
    assert main("segment", ["--raw", str(tmp_path / "raw"), "--workers", "0", "--out", str(tmp_path / "cells")]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no image can be read (1 E_NOT_IMAGE); 'a/one.png': no image format" in last
    assert "--diameter" not in last


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/nothing"])
def test_an_out_that_cannot_be_written_is_one_line(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "raw" / "a" / "one.png", discs([(30, 30)]))
    (tmp_path / "file").write_text("")
    arguments = ["--raw", str(tmp_path / "raw"), "--segmenter", "threshold", "--out", str(tmp_path / out)]
    assert main("segment", arguments) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cannot be written" in last
    assert "give another --out" in last


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
    assert cropstore.Crops(tmp_path / "cells" / "crops").shape == (26, 26, 2)


def tables(out: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """cells, images by path, metrics."""
    images = pd.read_parquet(out / "images.parquet").set_index("path")
    return pd.read_parquet(out / "cells.parquet"), images, json.loads((out / "metrics.json").read_text())


CROWD = [(20, 20), (20, 60), (60, 20), (60, 60), (40, 90), (90, 90), (2, 40)]  # the last one touches the border


def neuron() -> np.ndarray:
    """A bright neuron with its processes on dark ground, uint8."""
    thickness = np.pad(arbor(np.random.default_rng(3), 90).thickness, 4)
    return np.rint(25 + 200 * np.clip(2 * thickness, 0, 1)).astype(np.uint8)


def test_cells_are_dropped_by_any_flag_and_each_reason_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "raw" / "a" / "one.png", discs(CROWD, side=110))
    raw = ["--raw", str(tmp_path / "raw"), "--workers", "0", "--mode", "cell"]
    assert main("segment", [*raw, "--out", str(tmp_path / "all")]) == 0
    assert main("segment", [*raw, "--drop", "border,small", "--out", str(tmp_path / "kept")]) == 0
    every, images, metrics = tables(tmp_path / "all")
    kept, fewer, counted = tables(tmp_path / "kept")
    assert every[list(quality.FLAGS)].dtypes.eq(bool).all()
    assert metrics["dropped"] == 0 == images["n_dropped"].sum()
    bad = every["border"] | every["small"]
    assert bad.any()
    assert kept["item_id"].tolist() == every.loc[~bad, "item_id"].tolist()
    row = fewer.loc["a/one.png"]
    assert (row["n_cells"], row["n_dropped"], row["dropped_border"], row["dropped_small"], row["dropped_large"]) == (
        (~bad).sum(), bad.sum(), every["border"].sum(), every["small"].sum(), 0,
    )  # fmt: skip
    assert counted["dropped"] == row["n_dropped"]
    assert counted["dropped_border"] == row["dropped_border"]
    assert f"{row['n_dropped']} dropped: border {row['dropped_border']}" in capsys.readouterr().err
    assert main("segment", [*raw, "--drop", "edge", "--out", str(tmp_path / "wrong")]) == 4


def test_tables_do_not_depend_on_workers_or_on_what_was_done(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "raw" / "a" / f"{number}.png", discs(CROWD[number:], side=110))
    save(tmp_path / "raw" / "b" / "neuron.png", neuron())
    cfg = segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0, drop=("border", "large"))
    segment.run(cfg, tmp_path / "alone")
    segment.run(cfg.model_copy(update={"workers": 2}), tmp_path / "two")
    entries = segment.scan_images(cfg)
    for entry in entries[1:3]:
        segment.segment_one((cfg, entry, tmp_path / "resumed"))
    images, cells = segment.find_cells(cfg, entries, tmp_path / "resumed")
    first = tables(tmp_path / "alone")
    for name in ("cells.parquet", "images.parquet", "metrics.json", "crops/00000.npy"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(cells) == len(first[0])
    assert images.set_index("path")["n_dropped"].to_dict() == first[1]["n_dropped"].to_dict()


def test_letters_are_no_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import ImageDraw, ImageFont

    pixels = discs([(30, 40), (30, 120), (80, 60), (80, 150)], radius=14, side=200)
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).text((60, 150), "HeLa 20", fill=0, font=ImageFont.load_default(size=30))
    save(tmp_path / "raw" / "a" / "one.png", np.asarray(image))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0, mode="cell"), tmp_path / "cells")
    cells, images, metrics = tables(tmp_path / "cells")
    assert len(cells) == 4
    assert (cells["y"] < 120).all()
    row = images.iloc[0]
    assert row["n_overlay"] == metrics["overlaid"] > 0
    assert "1 caption drawn over the image" in row["note"]
    assert labelmaps.read(tmp_path / "cells" / "masks" / f"{row['image_id']}.tif")[140:].max() == 0
    assert f"{row['n_overlay']} cells on them left out" in capsys.readouterr().err


def test_a_neuron_is_an_object_and_never_a_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "raw" / "neuron" / "one.png", neuron())
    save(tmp_path / "raw" / "rbc" / "two.png", discs(CROWD, side=110))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    cells, images, metrics = tables(tmp_path / "cells")
    assert images["mode"].to_dict() == {"neuron/one.png": "object", "rbc/two.png": "cell"}
    assert cells.groupby("group")["mode"].unique().map(list).to_dict() == {"neuron": ["object"], "rbc": ["cell"]}
    assert images["n_cells"].to_dict() == {"neuron/one.png": 0, "rbc/two.png": len(cells) - 1}
    assert (metrics["cells"], metrics["objects"], metrics["tiles"]) == (len(cells) - 1, 1, 0)
    assert "cells_neuron" not in metrics
    assert metrics["images_without_cells"] == 0
    assert f"{len(cells) - 1} cells, 1 object in 2 images" in capsys.readouterr().err
    assert not cells.loc[cells["mode"] == "object", "ragged"].any(), "an arbor is no ragged cell"


def test_a_page_and_a_preview_call_no_object_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda axis, text, **settings: titles.append(text))
    save(tmp_path / "raw" / "neuron" / "one.png", neuron())
    save(tmp_path / "raw" / "other" / "two.png", neuron())
    run = tmp_path / "run"
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), run)
    assert titles == ["neuron: 1 object", "other: 1 object"]
    report.write(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    page = re.sub('<style>.*?</style>|data:image[^"]*', "", page, flags=re.DOTALL).replace("cellvision", "")
    assert "2 objects; 0 images without any" in page
    assert "1 of 1 object, drawn evenly" in page
    assert "cell" not in page.replace("single cell", "")


def test_modes_are_counted_by_their_names() -> None:
    assert modes.counted({"cell": 12, "object": 1, "tile": 0}) == "12 cells, 1 object"
    assert modes.counted({"tile": 3}) == "3 tiles"
    assert modes.counted({}) == "0 cells"


def test_tiles_are_whole_squares_of_tissue(tmp_path: Path) -> None:
    rows, columns = np.mgrid[8:200:16, 8:200:16]
    tissue = discs([*zip(rows.ravel().tolist(), columns.ravel().tolist(), strict=True)], radius=7, side=200)
    save(tmp_path / "raw" / "vessels" / "one.png", tissue)
    save(tmp_path / "raw" / "rbc" / "two.png", discs(CROWD, side=110))
    cfg = segment.Config(
        segmenter="threshold", raw=tmp_path / "raw", workers=0, mode="cell", modes={"vessels": "tile"}, drop=("border",)
    )
    segment.run(cfg, tmp_path / "cells")
    cells, images, metrics = tables(tmp_path / "cells")
    tiles = cells[cells["mode"] == "tile"]
    side = modes.TILE * 15
    assert len(tiles) == images.loc["vessels/one.png", "n_tiles"] == metrics["tiles"] > 4
    assert tiles["area_px"].nunique() == 1
    assert tiles["area_px"].iloc[0] ** 0.5 == pytest.approx(side, rel=0.15)
    assert images.loc["vessels/one.png", "n_dropped"] == 0
    assert images.loc["rbc/two.png", "n_dropped"] > 0


def test_a_mode_of_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "a" / "one.png", discs(CROWD, side=110))
    cfg = segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0, modes={"b": "object"})
    with pytest.raises(ConfigError, match="no group 'b'"):
        segment.run(cfg, tmp_path / "cells")
    assert not (tmp_path / "cells").exists()
    with pytest.raises(ConfigError, match="modes"):
        segment.Config(segmenter="threshold", raw=tmp_path / "raw", modes={"a": "slices"})


def test_beyond_the_image_lies_its_median_colour() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 61, 3)).astype(np.uint8)
    labels = np.zeros((50, 61), np.int32)
    labels[:6, :8], labels[44:, 50:] = 1, 2
    median = np.sort(pixels.reshape(-1, 3), axis=0)[(50 * 61 - 1) // 2]
    assert crop.median_colour(pixels).tolist() == median.tolist()
    corner, other = crop.cut(pixels, labels, crop.measure(labels).assign(scale=1.0), 32)
    assert (corner[:13, :, :3] == median).all()
    assert (corner[:, :12, :3] == median).all()
    np.testing.assert_array_equal(corner[13:, 12:, :3], pixels[:19, :20])
    np.testing.assert_array_equal(other[:19, :22, :3], pixels[31:, 39:])
    assert (other[19:, :, :3] == median).all()
    assert (other[:, 22:, :3] == median).all()
    assert corner[:13, :, 3].max() == 0 == other[19:, :, 3].max()
