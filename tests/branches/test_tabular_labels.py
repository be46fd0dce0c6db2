"""tabular: labels are what was written, gaps are counted, and what only describes a row is no feature and no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import branch_of, learn, saved

from cellvision.branches.descriptors import is_descriptor
from cellvision.evidence import targets

ODD = ["NA", "None", "null", "nan", "001", "1e5", "True", "n/a", "NaN", " é"]


def test_words_for_nothing_zeros_and_exponents_are_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", y=ODD * 2, donor=[*ODD, *ODD], x=np.arange(20) * 0.5)
    branch = branch_of(path, "y", "donor")
    assert set(targets.read(branch.items, "y").classes) == set(ODD)
    assert branch.items.table["donor"].tolist() == ODD * 2
    assert any("'NA' is a label of 'y' (2 rows), and no gap; --ignore NA" in note for note in notes(branch))


def notes(branch: Any) -> list[str]:
    return list(branch.items.facts["notes"])


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["1", "2.0", "1.0", "3"], ["1", "2", "1", "3"]),
        (["0", "1", "None", "1"], ["0", "1", "None", "1"]),
        (["a", "", "b", " "], ["a", None, "b", None]),
        (["007", "7", "08", "1"], ["007", "7", "08", "1"]),
        (["1e3", "1000", "2", "3"], ["1e3", "1000", "2", "3"]),
        (["true", "True", "FALSE", "0"], ["true", "True", "FALSE", "0"]),
        ([*map(str, range(30)), "NA"], [*map(str, range(30)), None]),
    ],
    ids=["numbers", "a dose and None", "gaps", "zeros", "exponents", "truth", "a quantity has gaps"],
)
def test_a_label_is_named_as_it_was_written(tmp_path: Path, cells: list[str], labels: list[str | None]) -> None:
    path = saved(tmp_path / "t.csv", y=cells, x=np.arange(len(cells)) + 0.5)
    assert branch_of(path, "y").items.table["y"].where(lambda y: y.notna(), None).tolist() == labels


def test_empty_labels_are_counted_with_their_lines(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", text=["two\nlines", "b", "c", "d"], y=["a", "", "b", ""], x=[1.5, 2, 3, 4])
    assert "2 rows have no 'y' (lines 4, 6)" in notes(branch_of(path, "y"))


def test_a_label_does_not_change_what_a_row_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", y=["1", "2", "1"], area=[1.5, 2, 3])
    with_target, without = branch_of(path, "y").items.table, branch_of(path).items.table
    assert with_target["source_hash"].tolist() == without["source_hash"].tolist()


PLACES = """
    Centroid X µm|Centroid Y px|Nucleus: Centroid X µm|Object ID|XM|YM|BX|BY|FeretX|Slice|centroid-0|bbox-0|bbox-3
    |weighted_centroid-0|centroid_weighted-1|label|POSITION_X|POSITION_T|FRAME|TRACK_ID|ID|TRACK_INDEX|SPOT_SOURCE_ID
    |EDGE_X_LOCATION|TRACK_START|MANUAL_SPOT_COLOR|Location_Center_X|AreaShape_Center_Y|Number_Object_Number|nucleus_index
    |Nuclei_AreaShape_BoundingBoxMinimum_X|ObjectNumber|ImageNumber|X_centroid|CellID|Cell_ID|x_um|Position X [µm]
    |Object No|Field|Row|Center of the object_0|Bounding Box Minimum_0|labelimage_oid|timestep|centroid_x|x_pos
    |row_centroid|Cell number|y_coord|Y (µm)|well|site|fov|batch"""
MEASUREMENTS = """
    AreaShape_Area|Area|Mean|Circ.|Height|Width|mitotic_index|refractive_index|solid|lipid|Cells_AreaShape_BoundingBoxArea
    |centroid_local-0|pH|MeanIntensity_X|Nucleus: Area µm^2|Feret|FeretAngle|Solidity|time|TRACK_DURATION|QUALITY|RADIUS
    |Neighbors_NumberOfNeighbors_Adjacent|CD3_pos_1|distance to center|x|X|f0|grid|Texture_X|moments_hu-0|color_mean"""


def listed(text: str) -> list[str]:
    return [name.strip() for name in text.split("|")]


@pytest.mark.parametrize("name", listed(PLACES))
def test_where_and_which_one_is_no_measurement(name: str) -> None:
    assert is_descriptor(name)
    assert not is_descriptor(name, include=(name.replace("[", "?").replace("]", "?"),))


@pytest.mark.parametrize("name", listed(MEASUREMENTS))
def test_a_measurement_is_a_feature_whatever_it_reminds_of(name: str) -> None:
    assert not is_descriptor(name)


def test_x_and_y_together_are_a_place_and_one_of_them_a_feature(tmp_path: Path) -> None:
    columns = {"Area": [3.5, 4, 5], "X": [1.5, 2, 3], "Y": [1.5, 2, 3]}
    assert branch_of(saved(tmp_path / "t.csv", **columns)).features == ["Area"]
    assert branch_of(saved(tmp_path / "t.csv", **columns), include=["X", "Y"]).features == ["Area", "X", "Y"]
    assert branch_of(saved(tmp_path / "t.csv", **columns), "Y").features == ["Area", "X"]


def test_places_ids_and_words_for_nothing_make_no_score_on_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["NA", "None", "001", "1e5"], 30)
    code = np.arange(120) // 30
    path = saved(
        tmp_path / "t.csv", y=y, donor=[f"d{n}" for n in np.arange(120) // 6], noise=rng.normal(size=120),
        more=rng.normal(size=120), **{"Centroid X µm": code * 9 + rng.random(120), "centroid-0": code, "BX": code,
        "TRACK_ID": np.arange(120), "Field": code, "X": code + 0.5, "Y": code - 0.5},
    )  # fmt: skip
    scores = learn(path, tmp_path / "run", encoder="mlp-16-8", target="y", unit="donor")
    names = ("balanced_accuracy", "baseline_logistic", "baseline_forest", "baseline_boosting")
    assert max(scores[name] for name in names) < 0.45


@pytest.mark.parametrize(
    ("values", "what"),
    [(np.arange(40), "an order"), (np.arange(40) * 0.25 + 1e9, "an order"), (np.arange(40)[::-1] ^ 1, "an id"),
     (np.arange(40) // 4 + 10, "an order"), (np.repeat([7, 3, 9, 4, 2, 60, 30, 90, 40, 20], 4), "a code")],
    ids=["index", "time of day", "id", "sorted site", "site"],
)  # fmt: skip
def test_an_id_that_alone_tells_the_class_is_named(tmp_path: Path, values: Any, what: str) -> None:
    columns = {"y": np.arange(40) // 20, "donor": np.arange(40) // 4, "noise": np.random.default_rng(1).normal(size=40)}
    branch = branch_of(saved(tmp_path / "t.csv", **columns, strange=values), "y", "donor")
    (stamp,) = branch.items.stamps
    assert stamp.startswith(f"column 'strange' looks like {what} and alone tells 'y' of 100% of rows")
    mixed = saved(tmp_path / "u.csv", **columns | {"y": np.arange(40) % 2}, strange=values)
    assert not branch_of(mixed, "y", "donor").items.stamps


def test_a_strong_measurement_is_not_taken_for_an_id(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    y = np.arange(40) // 20
    path = saved(tmp_path / "t.csv", y=y, donor=np.arange(40) // 4, marker=y * 9 + rng.normal(size=40),
                 spots=y * 30 + rng.integers(0, 9, 40))  # fmt: skip
    assert not branch_of(path, "y", "donor").items.stamps


def test_a_missing_plate_is_no_plate_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", plate=["a", None, "b"], kind=["c", "c", "c"], x=[1.5, 2, 3])
    with pytest.raises(Exception, match="1 rows have no 'plate'"):
        branch_of(path, plate="plate", controls="kind=c")


def test_parquet_labels_are_the_same_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"y": ["NA", None, "001"], "dose": [1.0, np.nan, 2.0], "x": [1.5, 2, 3]})
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    found = branch_of(tmp_path / "t.parquet", "y", "dose").items.table
    assert found["y"].tolist() == ["NA", None, "001"]
    assert found["dose"].tolist() == ["1", None, "2"]
