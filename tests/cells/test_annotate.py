"""True labels matched to cells: known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from painted_cells import painted

from cellvision.cells import annotate, crop
from cellvision.core.errors import CellvisionError


def labelled(**columns: list[float]) -> Any:
    return pd.DataFrame(columns).assign(label="x")


def test_points_are_outside_shared_or_matched() -> None:
    masks = painted()[1]
    points = labelled(x=[37, 3, 4, 70, 500, -1], y=[30, 2, 3, 50, 30, 5])
    found = annotate.match(points, masks, crop.measure(masks))
    assert found["status"].tolist() == ["matched", "shared", "shared", "outside", "outside", "outside"]
    assert found["mask_label"].tolist() == [1, 2, 2, 0, 0, 0]


def test_boxes_match_one_to_one_at_half_overlap() -> None:
    masks = painted()[1]
    boxes = labelled(x0=[31, 29, 0, 60], y0=[25, 20, 0, 40], x1=[44, 44, 4, 70], y1=[35, 35, 3, 50])
    found = annotate.match(boxes, masks, crop.measure(masks))
    assert found["mask_label"].tolist() == [1, 0, 0, 0]
    assert found["status"].tolist() == ["matched", "outside", "outside", "outside"]
    nothing = crop.measure(masks).iloc[:0]
    assert annotate.match(boxes, np.zeros_like(masks), nothing)["status"].tolist() == ["outside"] * 4


def test_iou_of_known_boxes() -> None:
    a, b = np.array([[0, 0, 2, 2.0]]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6.0]])
    assert annotate.iou(a, b)[0].tolist() == pytest.approx([1, 1 / 3, 0])


def test_annotations_find_their_image_by_path_or_unique_name(tmp_path: Path) -> None:
    images = pd.DataFrame({"path": ["a/1.png", "b/1.png", "b/2.png"], "image_id": ["i1", "i2", "i3"]})
    path = tmp_path / "points.csv"
    path.write_text("image,x,y,label\na/1.png,1,1,x\n1.png,1,1,x\n2.png,1,1,x\nc.png,1,1,x\n")
    found = annotate.read(path, images)["image_id"]
    assert [value if isinstance(value, str) else None for value in found] == ["i1", None, "i3", None]


@pytest.mark.parametrize(
    ("text", "words"),
    [("image,x,label\na,1,b\n", "needs the columns image,x,y,label"), ("image,x,y,label\na,1,2,b\na,?,2,b\n", "line 3"),
     ("", "is empty")],
)  # fmt: skip
def test_bad_annotations_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(CellvisionError, match=words):
        annotate.read(tmp_path / "points.csv", pd.DataFrame({"path": ["a"], "image_id": ["i"]}))


IMAGES = pd.DataFrame({"path": ["a/1.png", "b/2.png"], "image_id": ["i1", "i2"]})


@pytest.mark.parametrize(
    ("text", "images", "labels"),
    [
        ("Image;X;Y;Label\na\\1.png;1,5;2;NA\nb\\2;3;4;001\n", ["i1", "i2"], ["NA", "001"]),
        ("image,x,y,label\n1.png,1,2,3.0\n2.png,3,4,1.0\n", ["i1", "i2"], ["3", "1"]),
        ("image,x,y,label\na/1.png,1,2,x\n1.png,1,2,x\na\\1.png,1.0,2.0,x\n1.png,1,2,y\n", ["i1", "i1"], ["x", "y"]),
        ("image,x,y,label\nsomewhere/else.png,1,2,x\nb/2.png,1,2,None\n", [None, "i2"], ["x", "None"]),
    ],
    ids=["capitals, Windows and Excel", "numbers", "listed twice", "one stranger"],
)
def test_annotations_say_the_same_however_they_are_written(
    tmp_path: Path, text: str, images: list[str | None], labels: list[str]
) -> None:
    (tmp_path / "points.csv").write_text(text)
    found = annotate.read(tmp_path / "points.csv", IMAGES)
    assert found["image_id"].tolist() == images
    assert found["label"].tolist() == labels


def test_annotations_of_no_image_or_no_cell_stop_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("image,x,y,label\nq.png,1,2,x\n")
    with pytest.raises(CellvisionError, match=r"it says 'q.png', the files are called 'a/1.png'"):
        annotate.read(tmp_path / "points.csv", IMAGES)
    masks = painted()[1]
    points = labelled(x=[70.0], y=[50.0]).assign(image="1.png")
    nowhere = annotate.match(points, masks, crop.measure(masks))
    with pytest.raises(
        CellvisionError, match="none of its 1 annotations lies in one of the 3 cells, such as the one at x 70"
    ):
        annotate.refuse_strangers(nowhere, 3, tmp_path / "points.csv")
