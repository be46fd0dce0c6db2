"""Export: what other programs get are the cells of the table, pixel for pixel and number for number."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cellvision import export
from cellvision.branches.tabular.branch import TabularBranch
from cellvision.commandline import cli
from cellvision.core import files, rundir
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.evidence import labelscores
from cellvision.io import geojson, labelmaps

PLACES = {"a/one.png": 1, "=b/two.png": 2, "=b/two.tif": 3, f"=b/{'long' * 60}.png": 1}  # image -> how many cells
GROUP = "=b"  # a name that a spreadsheet would run


def painting(cells: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """(20, 30) pixels, RGB for one cell, and labels: squares of 4 px, the last one not in the table of the run."""
    labels = np.zeros((20, 30), np.int32)
    for number in range(cells + 1):
        labels[3 + number : 7 + number, 2 + 6 * number : 6 + 6 * number] = number + 1
    pixels = (40 * labels + np.arange(30)).astype(np.uint8)
    return (np.repeat(pixels[..., None], 3, 2) if cells == 1 else pixels), labels


def make_run(folder: Path) -> Path:
    """As much of a segment run, and of its images, as an export reads; the last cell of every image is left out."""
    out, raw = folder / "run", folder / "raw"
    images, cells = [], []
    for number, (path, count) in enumerate(PLACES.items()):
        pixels, labels = painting(count)
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(raw / path)
        key, group = f"id{number}", path.split("/")[0]
        labelmaps.write(out / "masks" / f"{key}.tif", labels)
        images.append({
            "image_id": key, "path": path, "group": group, "status": "ok", "height": 20, "width": 30,
            "pixel_size_um": None, "sha256": files.sha256_file(raw / path),
        })  # fmt: skip
        for label in range(1, count + 1):
            cells.append({
                "item_id": f"{key}-{label:05d}", "source_id": key, "source_hash": "h", "unit": key, "group": group,
                "path": path, "mask_label": label, "y": 1.0, "x": 1.0, "area_px": 16, "touches_border": label == 1,
                "mode": "object" if number == 3 else "cell", "focus": 0.5 * label,
                "annotation": "burr" if label == 2 else None, "crop_shard": 0, "crop_row": 0,
            })  # fmt: skip
    images.append({"image_id": "bad", "path": "a/bad.png", "group": "a", "status": "skipped"})
    files.write_parquet(out / "images.parquet", pd.DataFrame(images))
    files.write_parquet(out / "cells.parquet", pd.DataFrame(cells))
    files.write_json(out / "geometry.json", {"size": 32, "scale": 1.0, "context": 0.1, "channels": 3})
    files.write_text(out / "config.yaml", f"raw: {raw}\nread:\n  frames: auto\n  channels: null\n")
    return sealed(out)


def sealed(run: Path, **facts: str) -> Path:
    """With the record of a run that ended with the files that lie there now."""
    record = {"schema": 1, "stage": "segment", "status": "done", "content": rundir.seal(run)}
    files.write_json(run / "run.json", record | facts)
    return run


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def told(made: Path, to: str, **options: Any) -> Path:
    out = made.parent / f"as-{to}"
    export.run(export.Config.model_validate({"run": made, "to": to, "workers": 0, **options}), out)
    return out


def kept(count: int) -> NDArray[np.int32]:
    labels = painting(count)[1]
    return np.where(labels <= count, labels, 0)


NAMES = dict(zip(PLACES, ["a/one", "=b/two.png", "=b/two.tif", "=b/id3"], strict=True))  # below --out, without suffix


@pytest.mark.parametrize("to", ["labels", "geojson"])
def test_every_image_gets_the_cells_of_its_table_and_no_other(made: Path, to: str) -> None:
    out = told(made, to)
    suffix = {"labels": ".tif", "geojson": ".geojson"}[to]
    written = {path.relative_to(out).as_posix() for path in out.rglob(f"*{suffix}")}
    assert written == {f"{name}{suffix}" for name in NAMES.values()}
    for path, name in NAMES.items():
        read = geojson.read_labels(out / f"{name}{suffix}", (20, 30))
        np.testing.assert_array_equal(read.labels, kept(PLACES[path]))


def test_label_maps_are_16_bit_and_named_for_cellpose(made: Path) -> None:
    out = told(made, "labels", naming="cellpose")
    assert tifffile.imread(out / "a" / "one_cp_masks.tif").dtype == np.uint16


def test_exported_labels_are_truth_that_every_image_finds(made: Path) -> None:
    out = told(made, "labels", naming="cellpose")
    images = pd.read_parquet(made / "images.parquet").query("status == 'ok'")
    found = labelscores.assign(images, labelscores.find(out).maps)
    assert [len(paths) for paths in found] == [1, 1, 1, 1]


def test_qupath_sees_annotation_then_prediction(made: Path) -> None:
    ids = pd.read_parquet(made / "cells.parquet")["item_id"]
    predicted = pd.DataFrame({"item_id": ids, "predicted": "round", "p_round": 0.75})
    files.write_parquet(made.parent / "predictions.parquet", predicted)
    out = told(made, "geojson", predictions=made.parent / "predictions.parquet", object_type="annotation")
    first, second = (one["properties"] for one in json.loads((out / "=b" / "two.png.geojson").read_text())["features"])
    assert first["classification"]["name"] == "round"
    assert second["classification"]["name"] == "burr"
    assert (first["objectType"], first["measurements"]["p_round"]) == ("annotation", 0.75)
    assert (first["measurements"]["touches_border"], second["measurements"]["focus"]) == (1, 1)
    told_of = {"unit": "id1", "group": GROUP, "mode": "cell", "annotation": "burr", "prediction": "round"}
    assert second["metadata"] == told_of


def test_any_column_can_be_the_class(made: Path) -> None:
    out = told(made, "geojson", classify_by="group")
    assert geojson.read_geojson(out / "a" / "one.geojson").classes == {1: "a"}
    with pytest.raises(ConfigError, match="no column 'kind'"):
        told(made, "geojson", classify_by="kind")


def test_cellprofiler_tables_hold_known_numbers(made: Path) -> None:
    out = told(made, "cellprofiler")
    cells, images = pd.read_csv(out / "Cells.csv"), pd.read_csv(out / "Image.csv")
    assert len(cells) == sum(PLACES.values())
    counts = images.set_index("Metadata_path")[["Count_Cells", "Count_Objects", "Count_Tiles"]].T.to_dict("list")
    assert counts == {
        path if path[0] == "a" else f"'{path}": [0, count, 0] if "long" in path else [count, 0, 0]
        for path, count in PLACES.items()
    }
    assert (cells["AreaShape_Area"] == 16).all()
    one = cells[cells["Metadata_path"] == "a/one.png"].iloc[0]
    assert (one["ObjectNumber"], one["Location_Center_X"], one["AreaShape_Center_Y"]) == (1, 3.5, 4.5)
    assert one["Intensity_MeanIntensity_Green"] == pytest.approx((40 + 3.5) / 255)
    grey = cells[cells["Metadata_path"] == "'=b/two.png"].iloc[1]
    assert grey["Intensity_MeanIntensity_Red"] == pytest.approx((80 + 9.5) / 255)
    assert grey["Intensity_MeanIntensity_Blue"] == grey["Intensity_MeanIntensity_Red"], "grey among RGB is repeated"


def test_no_cell_of_a_table_is_a_formula(made: Path) -> None:
    out = told(made, "cellprofiler", channel_names=("@SUM(A1)", "-1+1", "x"))
    for name in ("Cells.csv", "Image.csv"):
        with (out / name).open(newline="") as handle:
            for row in csv.reader(handle):
                for value in row:
                    assert not value.startswith(("=", "@", "\t", "\r")), value
                    assert not value.startswith(("-", "+")) or float(value) <= 0


def test_the_tabular_branch_reads_the_table_back(made: Path) -> None:
    path = told(made, "cellprofiler") / "Cells.csv"
    branch = TabularBranch(TabularBranch.Config(group="Metadata_group"), path)
    written = pd.read_csv(path)
    numeric = [name for name in written.select_dtypes("number") if not name.startswith("Metadata_")]
    places = ("ImageNumber", "ObjectNumber", "Location_", "AreaShape_Center_", "AreaShape_BoundingBoxM")
    expected = [name for name in numeric if not name.startswith(places)]
    assert branch.features == expected
    assert len(expected) < len(numeric), "where a cell lies is no measurement of it"
    np.testing.assert_allclose(branch.values, written[expected].to_numpy(np.float32))
    assert set(branch.items.table["group"]) == {"a", f"'{GROUP}"}
    assert {"Metadata_unit", "Metadata_annotation", "Metadata_focus"} <= set(branch.items.table)


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_intensities_that_cannot_be_had_are_empty_and_said(
    made: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = made.parent / "raw" / "a" / "one.png"
    image.unlink() if fault == "gone" else Image.new("L", (30, 20)).save(image)
    cells = pd.read_csv(told(made, "cellprofiler") / "Cells.csv").set_index("Metadata_path")
    assert cells.loc["a/one.png"].filter(like="Intensity_").isna().all()
    assert cells.drop("a/one.png").filter(like="Intensity_").notna().all(axis=None)
    assert "no intensities for 'a/one.png'" in capsys.readouterr().err


def test_images_may_have_moved(made: Path) -> None:
    shutil.move(made.parent / "raw", made.parent / "moved")
    cells = pd.read_csv(told(made, "cellprofiler", raw=made.parent / "moved") / "Cells.csv")
    assert cells.filter(like="Intensity_").notna().all(axis=None)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", ["geojson", "cellprofiler", "labels"])
def test_a_repeat_changes_no_byte(made: Path, to: str) -> None:
    once = content(told(made, to))
    assert content(told(made, to)) == once
    assert len(once) == (3 if to == "cellprofiler" else 5)


def test_workers_change_no_byte(made: Path) -> None:
    export.run(export.Config(run=made, to="cellprofiler", workers=2), made.parent / "parallel")
    assert content(made.parent / "parallel") == content(told(made, "cellprofiler"))


def test_an_image_without_cells_is_exported_as_such(made: Path) -> None:
    table = pd.read_parquet(made / "cells.parquet")
    files.write_parquet(made / "cells.parquet", table[table["path"] != "a/one.png"])
    sealed(made)
    assert json.loads((told(made, "geojson") / "a" / "one.geojson").read_text())["features"] == []
    assert not labelmaps.read(told(made, "labels") / "a" / "one.tif").any()
    images = pd.read_csv(told(made, "cellprofiler") / "Image.csv").set_index("Metadata_path")
    assert images.loc["a/one.png", "Count_Cells"] == 0


def test_what_a_person_can_mend_is_one_line(made: Path) -> None:
    other = made.parent / "other"
    other.mkdir()
    (other / "precious.txt").write_text("keep")
    cfg = export.Config(run=made, to="labels", workers=0)
    for out in (other, made, made / "run.json"):
        with pytest.raises(ConfigError, match="is not empty"):
            export.run(cfg, out)
    assert (other / "precious.txt").read_text() == "keep"
    for options, message in (
        ({"channel_names": ("a",)}, "wants 3 names"), ({"predictions": other}, "no predictions"),
        ({"raw": other / "none"}, "no folder of images"), ({"run": other}, "is no run directory"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            told(made, "cellprofiler", **options)
    files.write_parquet(made / "predictions.parquet", pd.DataFrame({"item_id": ["x"], "predicted": ["y"]}))
    with pytest.raises(ConfigError, match="knows none of these cells"):
        told(made, "cellprofiler", predictions=made)
    shutil.rmtree(made / "masks")
    sealed(made)
    with pytest.raises(ConfigError, match="ready crops"):
        told(made, "labels")
    files.write_json(made / "run.json", files.read_json(made / "run.json") | {"status": "broken"})
    with pytest.raises(ConfigError, match="repeat its command"):
        told(made, "labels")


def test_an_export_is_replaced_only_by_its_own_kind(made: Path) -> None:
    out = told(made, "labels")
    with pytest.raises(ConfigError, match="holds no geojson export of this run"):
        export.run(export.Config(run=made, to="geojson", workers=0), out)
    files.write_text(made / "another.txt", "")
    sealed(made)
    with pytest.raises(ConfigError, match="holds no labels export of this run"):
        told(made, "labels")


def test_a_run_that_names_files_elsewhere_is_unsafe(made: Path) -> None:
    table = pd.read_parquet(made / "images.parquet")
    files.write_parquet(made / "images.parquet", table.assign(path=table["path"].str.replace("a/one", "../../one")))
    sealed(made)
    with pytest.raises(UnsafeInput, match="names files outside"):
        told(made, "labels")


def test_the_segment_run_inside_another_is_found(made: Path, tmp_path: Path) -> None:
    whole = tmp_path / "predicted"
    shutil.copytree(made, whole / "runs" / "segment")
    sealed(whole, stage="predict")
    ids = pd.read_parquet(made / "cells.parquet")["item_id"]
    files.write_parquet(whole / "predictions.parquet", pd.DataFrame({"item_id": ids, "predicted": "round"}))
    export.run(export.Config(run=whole, to="geojson", workers=0), tmp_path / "out")
    assert geojson.read_geojson(tmp_path / "out" / "a" / "one.geojson").classes == {1: "round"}


def test_the_command_line_exports_a_real_run(cells: Path, tmp_path: Path) -> None:
    arguments = [str(cells), "--to", "geojson", "--workers", "0", "--out", str(tmp_path / "out")]
    assert cli.main("export", arguments) == 0
    table, images = pd.read_parquet(cells / "cells.parquet"), pd.read_parquet(cells / "images.parquet")
    for image in images.itertuples():
        read = geojson.read_geojson(tmp_path / "out" / Path(image.path).with_suffix(".geojson"))
        own = table.loc[table["source_id"] == image.image_id, "mask_label"]
        labels = labelmaps.read(cells / "masks" / f"{image.image_id}.tif")
        np.testing.assert_array_equal(read.labels, np.where(np.isin(labels, own), labels, 0))
    assert cli.main("export", [str(cells), "--to", "qupath", "--out", str(tmp_path / "other")]) == 4
