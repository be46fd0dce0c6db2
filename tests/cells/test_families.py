"""Families of files: frames, z-slices and channels of one field are one unit; files that only look so are not."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
import pytest

from cellvision.cells import families


def images(names: list[str], group: str = "g", size: tuple[int, int] = (100, 120), **columns: Any) -> pd.DataFrame:
    """Rows of images.parquet of files in one group."""
    rows = pd.DataFrame({"path": [f"{group}/{name}" for name in names], "group": group, "status": "ok"})
    return rows.assign(image_id=rows["path"] + " id", height=size[0], width=size[1]).assign(**columns)


def units(table: pd.DataFrame) -> list[str]:
    return families.found(table)["unit"].tolist()


def told(table: pd.DataFrame) -> list[str]:
    found = table.merge(families.found(table), on="image_id", how="left")
    return list(families.told(found.rename(columns={"image_id": "source_id"})))


FRAMES = [f"field{field}_t{time:02d}.tif" for field in range(4) for time in range(8)]


def test_frames_of_a_field_are_one_unit_and_the_line_says_so() -> None:
    found = families.found(images(FRAMES))
    assert found["unit"].tolist() == [f"g/field{field}" for field in range(4) for _ in range(8)]
    assert found["t"].tolist() == [f"{time:02d}" for time in range(8)] * 4
    assert told(images(FRAMES)) == ["32 files are 4 fields of 8 frames (t 00 to 07); the unit is the field"]


def test_fields_of_one_name_in_two_groups_are_two_units() -> None:
    assert len(set(units(pd.concat([images(FRAMES, "a"), images(FRAMES, "b")], ignore_index=True)))) == 8


def test_channels_are_one_unit_and_the_option_that_joins_them_is_named() -> None:
    names = [f"sample{n}_{stain}.tif" for n in range(3) for stain in ("DAPI", "GFP")]
    assert len(set(units(images(names)))) == 3
    (line,) = told(images(names))
    assert line.startswith("6 files are 3 fields of 2 channels (channel DAPI, GFP); the unit is the field")
    assert "--join-channels" in line


def test_a_plate_is_found_and_its_sites_stay_units() -> None:
    places = itertools.product(("P1", "P2"), ("B02", "C03"), (1, 2), (1, 2, 3))
    names = [f"{plate}_{well}_s{site}_w{channel}.tif" for plate, well, site, channel in places]
    found = families.found(images(names))
    assert found["unit"].nunique() == 8
    assert found.iloc[-1][["plate", "well", "site", "channel"]].tolist() == ["P2", "C03", "2", "3"]
    assert any("2 wells on 2 plates" in line for line in told(images(names)))


def test_folders_of_time_points_hold_frames_of_one_field() -> None:
    names = [f"TimePoint_{time}/x_B02_s{site}.tif" for time in (1, 2) for site in (1, 2)]
    assert len(set(units(images(names)))) == 2


@pytest.mark.parametrize(
    "names",
    [
        ["neuron_01.png", "neuron_02.png"], ["IMG_0001.jpg", "IMG_0002.jpg"], ["c1.png", "c2.png"],
        ["t1.tif", "t2.tif"], ["a_t1.tif", "b_t2.tif"], ["a_s1.tif", "b.tif"], ["a_z1.tif"],
        ["T98G_1.tif", "T98G_2.tif"], ["slide_3.tif", "slide_4.tif"], ["a_s1.tif", "a_s2.tif"],
        ["2021-03-01.tif", "2021-03-02.tif"], ["P1C3.tif", "P2C3.tif"], ["mouse_w40.tif", "mouse_w41.tif"],
        ["D01.tif", "D02.tif"], ["slice_1.tif", "slice_2.tif"], ["day1_a.tif", "day2_a.tif"],
        ["x10_a.tif", "x20_a.tif"], ["GFP.tif", "DAPI.tif"],
    ],
    ids=lambda names: names[0],
)  # fmt: skip
def test_files_that_only_look_like_a_family_stay_apart(names: list[str]) -> None:
    assert units(images(names)) == images(names)["image_id"].tolist()


def test_files_of_other_sizes_are_no_family() -> None:
    table = images(["a_t0.tif", "a_t1.tif", "a_t2.tif"]).assign(height=[100, 200, 300])
    assert units(table) == table["image_id"].tolist()
    two = images(["a_t0.tif", "a_t1.tif", "a_t2.tif", "a_t3.tif"]).assign(height=[100, 100, 200, 200])
    assert len(set(units(two))) == 2


def test_files_that_were_not_read_have_no_place() -> None:
    table = images(["a_t0.tif", "a_t1.tif", "a_t2.tif"]).assign(status=["ok", "ok", "skipped"])
    assert len(families.found(table)) == 2
    nothing = families.found(table.assign(status="skipped"))
    assert nothing.empty
    assert "unit" in nothing
