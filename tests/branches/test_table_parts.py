"""tabular: tables that CellProfiler and others write in several files or under several header rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import branch_of

from cellvision.core.errors import ConfigError
from cellvision.io import tables

IMAGES = pd.DataFrame({
    "ImageNumber": [1, 2, 3, 4], "Metadata_Plate": ["001", "001", "002", "002"], "Metadata_Drug": ["None", "taxol"] * 2,
    "Count_Cells": [3, 3, 3, 3],
})  # fmt: skip


def objects(per_image: int = 3, **more: Any) -> pd.DataFrame:
    image = np.repeat(IMAGES["ImageNumber"].to_numpy(), per_image)
    number = np.tile(np.arange(per_image) + 1, len(IMAGES))
    return pd.DataFrame({"ImageNumber": image, "ObjectNumber": number, "AreaShape_Area": image * 10.5 + number, **more})


def notes(branch: Any) -> str:
    return "\n".join(branch.items.facts["notes"])


@pytest.mark.parametrize("prefix", ["", "MyExpt_"])
def test_what_describes_an_image_comes_from_the_table_beside(tmp_path: Path, prefix: str) -> None:
    objects().to_csv(tmp_path / f"{prefix}Cells.csv", index=False)
    IMAGES.to_csv(tmp_path / f"{prefix}Image.csv", index=False)
    branch = branch_of(tmp_path / f"{prefix}Cells.csv", "Metadata_Drug", "Metadata_Plate")
    assert branch.features == ["AreaShape_Area"]
    assert branch.items.table["Metadata_Drug"].tolist() == ["None"] * 3 + ["taxol"] * 3 + ["None"] * 3 + ["taxol"] * 3
    assert branch.items.table["Metadata_Plate"].tolist() == ["001"] * 6 + ["002"] * 6
    assert f"{prefix}Cells.csv with {prefix}Image.csv" in notes(branch)
    before = branch.items.content
    IMAGES.assign(Metadata_Drug="x").to_csv(tmp_path / f"{prefix}Image.csv", index=False)
    assert branch_of(tmp_path / f"{prefix}Cells.csv").items.content != before


def test_objects_of_a_folder_are_joined_by_their_parents(tmp_path: Path) -> None:
    cells = objects()
    cells.assign(Parent_Nuclei=[3, 1, 2] * 4).to_csv(tmp_path / "Cells.csv", index=False)
    cells.assign(AreaShape_Area=cells["AreaShape_Area"] / 2).to_csv(tmp_path / "Nuclei.csv", index=False)
    cells.assign(Parent_Cells=[2, 3, 1] * 4).iloc[::-1].to_csv(tmp_path / "Cytoplasm.csv", index=False)
    cells.assign(Parent_Cells=1).to_csv(tmp_path / "Spots.csv", index=False)
    IMAGES.to_csv(tmp_path / "Image.csv", index=False)
    pd.DataFrame({"Key": ["Pipeline"], "Value": ["x"]}).to_csv(tmp_path / "Experiment.csv", index=False)
    branch = branch_of(tmp_path, "Metadata_Drug", "Metadata_Plate")
    assert branch.features == ["Cells_AreaShape_Area", "Cytoplasm_AreaShape_Area", "Nuclei_AreaShape_Area"]
    area = cells["AreaShape_Area"].to_numpy().reshape(4, 3)
    np.testing.assert_allclose(branch.values[:, 0], area.ravel())
    np.testing.assert_allclose(branch.values[:, 1], area[:, [2, 0, 1]].ravel())
    np.testing.assert_allclose(branch.values[:, 2], area[:, [2, 0, 1]].ravel() / 2)
    assert "Spots.csv has several rows for one of Cells.csv and is left out" in notes(branch)


def test_images_that_start_again_on_every_plate_are_joined_by_a_shared_order_or_refused(tmp_path: Path) -> None:
    twice, images = pd.concat([objects(), objects()]), pd.concat([IMAGES, IMAGES.assign(Metadata_Drug="b")])
    twice.to_csv(tmp_path / "Cells.csv", index=False)
    images.to_csv(tmp_path / "Image.csv", index=False)
    branch = branch_of(tmp_path / "Cells.csv", "Metadata_Drug")
    assert branch.items.table["Metadata_Drug"].tolist()[12:] == ["b"] * 12
    images.iloc[1:].to_csv(tmp_path / "Image.csv", index=False)
    with pytest.raises(ConfigError, match="an ImageNumber stands more than once"):
        branch_of(tmp_path / "Cells.csv", "Metadata_Drug")


def test_images_of_another_run_stop_with_an_example(tmp_path: Path) -> None:
    objects().to_csv(tmp_path / "Cells.csv", index=False)
    IMAGES.assign(ImageNumber=[11, 12, 13, 14]).to_csv(tmp_path / "Image.csv", index=False)
    with pytest.raises(ConfigError, match="knows none of the images: the objects have ImageNumber 1, it has 11"):
        branch_of(tmp_path / "Cells.csv", "Metadata_Drug")


def test_a_folder_without_objects_is_refused(tmp_path: Path) -> None:
    IMAGES.to_csv(tmp_path / "Image.csv", index=False)
    with pytest.raises(ConfigError, match="holds no tables of CellProfiler"):
        branch_of(tmp_path)


def test_two_header_rows_are_one_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "Image,Image,Image,Cells,Cells,Nuclei,Nuclei\n"
        "ImageNumber,ObjectNumber,Metadata_Drug,AreaShape_Area,Location_Center_X,AreaShape_Area,Location_Center_X\n"
        "1,1,None,10,5,4,5\n1,2,None,11,6,5,6\n2,1,taxol,12,5,6,5\n"
    )
    branch = branch_of(tmp_path / "t.csv", "Metadata_Drug")
    assert branch.features == ["Cells_AreaShape_Area", "Nuclei_AreaShape_Area"]
    assert branch.items.table["Metadata_Drug"].tolist() == ["None", "None", "taxol"]
    assert len(branch.items.table) == 3


def test_columns_that_stand_twice_with_one_content_count_once(tmp_path: Path) -> None:
    text = "Metadata_Well,area,Metadata_Well\nA01,1.5,A01\nNA,2.5,{}\n"
    (tmp_path / "t.csv").write_text(text.format("NA"))
    branch = branch_of(tmp_path / "t.csv", "Metadata_Well")
    assert branch.items.table["Metadata_Well"].tolist() == ["A01", "NA"]
    assert "stand twice with the same content are taken once: 'Metadata_Well'" in notes(branch)
    (tmp_path / "t.csv").write_text(text.format("B01"))
    with pytest.raises(ConfigError, match=r"such as 'Metadata_Well' \(columns 1, 3\)"):
        branch_of(tmp_path / "t.csv", "Metadata_Well")


def test_trackmates_four_header_rows_are_no_spots(tmp_path: Path) -> None:
    (tmp_path / "spots.csv").write_text(
        "LABEL,ID,TRACK_ID,QUALITY,POSITION_X,FRAME,RADIUS,MEAN_INTENSITY_CH1\n"
        "Label,Spot ID,Track ID,Quality,X,Frame,Radius,Mean intensity ch1\n"
        "Label,Spot ID,Track ID,Quality,X,Frame,R,Mean ch1\n"
        ",,,(quality),(micron),,(micron),(counts)\n"
        + "".join(f"ID{n},{n},{n // 3},{n / 7:.3f},{n}.5,{n % 3},2.5,{100 + n}\n" for n in range(9))
    )
    branch = branch_of(tmp_path / "spots.csv", "TRACK_ID")
    assert len(branch.items.table) == 9
    assert branch.features == ["QUALITY", "RADIUS", "MEAN_INTENSITY_CH1"]
    assert branch.items.table["TRACK_ID"].tolist() == [str(n // 3) for n in range(9)]
    assert tables.read(tmp_path / "spots.csv").frame["ID"].tolist() == list(range(9))
