"""Channels of a run: one is segmented, all are kept, and names are those of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from corpus import tiff
from numpy.typing import NDArray
from raw_images import discs, exit_code, put, segmented

from cellvision import export, report
from cellvision.branches.image.branch import ImageBranch
from cellvision.core import files
from cellvision.core.errors import ConfigError

NAMES = ("DAPI", "GFP", "CY5")


def stains() -> NDArray[Any]:
    """(3, 96, 96): nuclei, a gradient, noise: only the first shows cells."""
    nuclei = 255 - discs(3)
    across = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (96, 1))
    return np.stack([nuclei, across, np.random.default_rng(0).integers(0, 255, (96, 96)).astype(np.uint8)])


def save(path: Path, names: tuple[str, ...] = NAMES) -> None:
    """The stains in the order of these names."""
    array = stains()[[NAMES.index(name) for name in names]]
    put(path, tiff(array, ome=True, metadata={"axes": "CYX", "Channel": {"Name": list(names)}}))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    save(folder / "g" / "a.ome.tif")
    save(folder / "g" / "b.ome.tif", ("GFP", "DAPI", "CY5"))
    return folder


BY_NAME = ("--segment-channels", "DAPI", "--channels", "DAPI,GFP,CY5")


@pytest.fixture(scope="module")
def cut(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cut") / "run"
    segmented(raw, out, *BY_NAME)
    return out


def test_one_channel_is_segmented_and_all_are_in_the_crops(cut: Path) -> None:
    crops, cells = np.load(cut / "crops" / "00000.npy"), pd.read_parquet(cut / "cells.parquet")
    assert crops.shape[-1] == 4
    assert cells.groupby("path").size().tolist() == [9, 9]
    cell = cells.iloc[0]
    middle = crops[0][crops.shape[1] // 2, crops.shape[2] // 2]
    y, x = round(float(cell["y"])), round(float(cell["x"]))
    np.testing.assert_allclose(middle[:2].astype(int), stains()[:2, y, x].astype(int), atol=12)


@pytest.mark.parametrize(
    "flags", [BY_NAME, ("--segment-channels", "0"), ("--segment-channels", "0", "--channels", "2,1")]
)
def test_masks_depend_on_the_channel_that_is_segmented_alone(tmp_path: Path, flags: tuple[str, ...]) -> None:
    save(tmp_path / "raw" / "g" / "a.ome.tif")
    segmented(tmp_path / "raw", tmp_path / "run", *flags)
    segmented(tmp_path / "raw", tmp_path / "alone", "--channels", "0")
    of_all, alone = (next((tmp_path / name / "masks").iterdir()) for name in ("run", "alone"))
    np.testing.assert_array_equal(tifffile.imread(of_all), tifffile.imread(alone))
    kept = files.read_json(tmp_path / "run" / "geometry.json")["channel_names"]
    assert kept == (["CY5", "GFP"] if "2,1" in flags else list(NAMES))


def test_channels_by_name_are_the_same_stains_in_any_order_of_the_files(cut: Path) -> None:
    crops, cells = np.load(cut / "crops" / "00000.npy"), pd.read_parquet(cut / "cells.parquet")
    first, second = (crops[np.flatnonzero(cells["path"] == f"g/{name}.ome.tif")] for name in "ab")
    np.testing.assert_array_equal(first, second)


def test_names_are_in_the_run_the_page_and_the_export(cut: Path, tmp_path: Path, raw: Path) -> None:
    assert files.read_json(cut / "geometry.json")["channel_names"] == list(NAMES)
    report.write(cut, tmp_path / "page.html")
    assert "Channels: DAPI, GFP, CY5." in (tmp_path / "page.html").read_text()
    export.run(export.Config(run=cut, to="cellprofiler", raw=raw, workers=0), tmp_path / "out")
    assert "Intensity_MeanIntensity_CY5" in pd.read_csv(tmp_path / "out" / "Cells.csv", nrows=1)


def test_numbers_that_mean_different_stains_are_stamped(raw: Path, tmp_path: Path) -> None:
    segmented(raw, tmp_path / "run", "--segment-channels", "DAPI", "--channels", "0,1")
    stamps = ImageBranch(ImageBranch.Config(), tmp_path / "run").items.stamps
    assert [stamp for stamp in stamps if "name the same channels differently" in stamp]


def test_a_model_gets_its_channels_in_the_order_it_learned(cut: Path) -> None:
    branch = ImageBranch(ImageBranch.Config(), cut)
    schema = branch.schema()
    swapped = schema | {"geometry": schema["geometry"] | {"channel_names": ["GFP", "DAPI", "CY5"]}}
    with pytest.raises(ConfigError, match="--channels GFP,DAPI,CY5"):
        branch.align(swapped)
    assert branch.align(schema) == []


def test_images_with_unlike_numbers_of_channels_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "raw" / "g" / "a.ome.tif")
    put(tmp_path / "raw" / "g" / "b.tif", tiff(stains()[:2], metadata={"axes": "CYX"}))
    assert exit_code(tmp_path / "raw", tmp_path / "run", "--segment-channels", "0") == 4
    assert "the images have 2 and 3 channels; say which to keep with --channels" in capsys.readouterr().err


def test_what_was_chosen_in_reading_is_said_on_screen_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        put(tmp_path / "raw" / "g" / f"{name}.tif", tiff(np.stack([stains()[0]] * 3), metadata={"axes": "ZYX"}))
    segmented(tmp_path / "raw", tmp_path / "run")
    assert "segment: in 2 images: maximum of 3 planes (depth)" in capsys.readouterr().err
    report.write(tmp_path / "run", tmp_path / "page.html")
    assert "2 images: maximum of 3 planes (depth)" in (tmp_path / "page.html").read_text()
