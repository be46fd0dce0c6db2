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
