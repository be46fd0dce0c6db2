"""GeoJSON gives back the label map, files of others are read as labels or refused."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from cellvision.io import geojson, polygons
from cellvision.io.images.pixels import ImageError, Reason


def cells_of(labels: NDArray, **columns: Any) -> pd.DataFrame:
    names = [int(name) for name in np.unique(labels) if name]
    return pd.DataFrame({"mask_label": names, "item_id": [f"image-{name:05d}" for name in names], **columns})


def write(target: Path, labels: NDArray, cells: pd.DataFrame | None = None, **image: Any) -> Path:
    cells = cells_of(labels) if cells is None else cells
    told = [name for name in ("area", "group") if name in cells]
    found = geojson.features(labels, cells, "detection", told[:1], told[1:])
    geojson.write_geojson(target, found, {"height": labels.shape[0], "width": labels.shape[1], **image})
    return target


@pytest.mark.parametrize("seed", range(12))
def test_geojson_gives_back_the_label_map(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (11, 17)) * (rng.random((11, 17)) < 0.7)
    labels[labels == 4] = 70_000
    read = geojson.read_geojson(write(tmp_path / "x.geojson", labels))
    np.testing.assert_array_equal(read.labels, labels)
    assert read.notes == ()


def test_geojson_is_what_qupath_reads(tmp_path: Path) -> None:
    columns = {"area": [3.5, np.nan, np.inf], "group": ["=1+1", "b", None], "classification": ["burr", None, "été"]}
    labels = np.array([[1, 0, 2], [0, 0, 0], [3, 0, 3]])
    path = write(tmp_path / "x.geojson", labels, cells_of(labels, **columns), path="a/x.png")
    document = json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["type"] == "FeatureCollection"
    first, second, third = document["features"]
    assert first["type"] == "Feature"
    assert uuid.UUID(first["id"]) != uuid.UUID(second["id"])
    assert first["geometry"] == {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["classification"]["name"] == "burr"
    assert first["properties"]["measurements"] == {"mask_label": 1, "area": 3.5}
    assert first["properties"]["metadata"] == {"group": "=1+1"}
    assert "classification" not in second["properties"]
    assert second["properties"]["measurements"] == {"mask_label": 2}, "no NaN, no infinity"
    assert third["geometry"]["type"] == "MultiPolygon"
    assert geojson.read_geojson(path).classes == {1: "burr", 3: "été"}


def test_an_image_without_cells_is_an_empty_collection(tmp_path: Path) -> None:
    path = write(tmp_path / "x.geojson", np.zeros((4, 5), int))
    assert json.loads(path.read_text())["features"] == []
    assert geojson.read_geojson(path).labels.shape == (4, 5)


def box(x0: float, y0: float, x1: float, y1: float, **properties: Any) -> dict[str, Any]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def save(path: Path, found: list[Any], **told: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found, **told}))
    return path


def test_smaller_shapes_lie_on_larger_ones_and_what_is_lost_is_said(tmp_path: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    found = [box(2, 2, 4, 4), box(0, 0, 8, 8, classification={"name": "Region"}), point, box(50, 50, 60, 60)]
    read = geojson.read_geojson(save(tmp_path / "x.geojson", found), (8, 8))
    assert (read.labels == 1).sum() == 4
    assert (read.labels == 2).sum() == 60
    assert read.classes == {2: "Region"}
    assert [note.split(" ")[0] for note in read.notes] == ["1", "4", "1"]


def test_a_cell_keeps_its_number_and_new_ones_get_others(tmp_path: Path) -> None:
    own, older = {"measurements": {"mask_label": 5}}, {"measurements": [{"name": "mask_label", "value": 3.0}]}
    found = [box(0, 0, 1, 1), box(1, 0, 2, 1, **own), box(2, 0, 3, 1, **own), box(3, 0, 4, 1, **older)]
    read = geojson.read_geojson(save(tmp_path / "x.geojson", found), (1, 4))
    assert read.labels.tolist() == [[6, 5, 7, 3]]


def test_classes_of_newer_qupath_and_bare_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([box(0, 0, 2, 2, classification={"names": ["Tumor", "Positive"]})]))
    assert geojson.read_labels(path, (4, 4)).classes == {1: "Tumor: Positive"}


SQUARE = [[0, 0], [2, 0], [2, 2], [0, 2]]
BROKEN: dict[str, Any] = {
    "no JSON": b"{", "not text": b"\xff\xfe\xfa", "too deep": b"[" * 100_000, "a number": b"3",
    "no features": {"features": 3}, "no rings": {"features": [{"geometry": {"type": "Polygon", "coordinates": 3}}]},
    "words": {"features": [{"geometry": {"type": "Polygon", "coordinates": [[["a", "b"]] * 4]}}]},
    "two points": {"features": [{"geometry": {"type": "Polygon", "coordinates": [SQUARE[:2]]}}]},
    "ragged": {"features": [{"geometry": {"type": "Polygon", "coordinates": [[*SQUARE, [1]]]}}]},
    "infinite": b'{"features":[{"geometry":{"type":"Polygon","coordinates":[[[0,0],[1e999,0],[2,2]]]}}]}',
    "not a number": b'{"features":[{"geometry":{"type":"Polygon","coordinates":[[[0,0],[NaN,0],[2,2]]]}}]}',
    "far away": {"features": [{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [10**300, 0], [2, 2]]]}}]},
    "huge number": {"features": [{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [10**400, 0], [2, 2]]]}}]},
    "no coordinates": {"features": [{"geometry": {"type": "Polygon"}}]},
    "another size": {"features": [], "image": {"height": 9, "width": 9}},
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_geojson_is_one_line(tmp_path: Path, name: str) -> None:
    content = BROKEN[name]
    path = tmp_path / "x.geojson"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ImageError, match=r"x\.geojson"):
        geojson.read_geojson(path, (8, 8))


def test_odd_but_harmless_geojson_is_read(tmp_path: Path) -> None:
    nothing = [3, None, {"geometry": None}, {"geometry": {"type": "Circle"}, "properties": 3}]
    own = box(0, 0, 2, 2, measurements={"mask_label": "one"}, classification="plain")
    read = geojson.read_geojson(save(tmp_path / "x.geojson", [*nothing, own]), (4, 4))
    assert (read.labels > 0).sum() == 4
    assert list(read.classes.values()) == ["plain"]


def test_geojson_needs_the_size_of_its_image_and_a_modest_one(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not tell the size"):
        geojson.read_geojson(save(tmp_path / "x.geojson", []))
    path = save(tmp_path / "x.geojson", [], image={"height": 10**6, "width": 10**6})
    with pytest.raises(ImageError, match="max_megapixels") as caught:
        geojson.read_geojson(path)
    assert caught.value.reason is Reason.E_TOO_LARGE


def test_geojson_that_would_take_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.geojson", [box(0, 0, 8, 8)] * 5)
    monkeypatch.setattr(geojson, "MAX_PAINTED", 4 * 81)
    with pytest.raises(ImageError, match="too often"):
        geojson.read_geojson(path, (8, 8))
    monkeypatch.setattr(polygons, "MAX_CROSSINGS", 15)
    monkeypatch.setattr(geojson, "MAX_PAINTED", 5 * 81)
    with pytest.raises(ImageError, match="simplify the outlines"):
        geojson.read_geojson(path, (8, 8))
