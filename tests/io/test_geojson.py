"""Interchange: polygons give back the pixels they were traced from; files of others are read as labels or refused."""

from __future__ import annotations

import json
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import regionprops_table

from cellvision.cells import cellprofiler
from cellvision.core.errors import UnsafeInput
from cellvision.io import geojson, labelmaps, polygons
from cellvision.io.images.pixels import ImageError, Limits, Reason

RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 2, 1], [1, 1, 1, 1]])  # a hole, and another cell in it
SHAPES: dict[str, NDArray[np.int_]] = {
    "one pixel": np.array([[7]]),
    "whole image": np.full((3, 5), 4),
    "hole": RING,
    "touching": np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 2]]),
    "corner to corner": np.array([[1, 0, 2], [0, 1, 0], [2, 0, 1]]),
    "hole at the corner of another": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
    "hole at the corner of the rim": np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]]),
    "several parts": np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]),
    "island in a hole": np.pad(np.pad(np.ones((1, 1), int), 1), 2, constant_values=1),
}


SHAPE = {  # CellProfiler's name -> scikit-image's
    "Area": "area", "BoundingBoxArea": "area_bbox", "BoundingBoxMaximum_X": "bbox-3", "BoundingBoxMaximum_Y": "bbox-2",
    "BoundingBoxMinimum_X": "bbox-1", "BoundingBoxMinimum_Y": "bbox-0", "Center_X": "centroid-1",
    "Center_Y": "centroid-0", "ConvexArea": "area_convex", "Eccentricity": "eccentricity",
    "EquivalentDiameter": "equivalent_diameter_area", "EulerNumber": "euler_number", "Extent": "extent",
    "MajorAxisLength": "axis_major_length", "MinorAxisLength": "axis_minor_length", "Perimeter": "perimeter",
    "Solidity": "solidity",
}  # fmt: skip


def painted(outlines: dict[int, list[polygons.Polygon]], shape: tuple[int, ...]) -> NDArray[np.int32]:
    labels = np.zeros(shape, np.int32)
    for name, parts in outlines.items():
        window, inside = polygons.fill([ring.astype(float) for part in parts for ring in part], (shape[0], shape[1]))
        assert not labels[window][inside].any(), "cells do not overlap"
        labels[window][inside] = name
    return labels


def twice_area(ring: NDArray) -> float:
    (x, y), (x1, y1) = ring[:-1].T, ring[1:].T
    return float((x * y1 - x1 * y).sum())


def check_valid(parts: list[polygons.Polygon], labels: NDArray, name: int) -> None:
    """What makes polygons valid for geometry libraries, as far as rings along pixel edges can fail to be."""
    for exterior, *holes in parts:
        assert twice_area(exterior) > 0, "an exterior runs counterclockwise"
        assert all(twice_area(hole) < 0 for hole in holes)
        for ring in (exterior, *holes):
            assert (ring[0] == ring[-1]).all(), "closed"
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring) - 1, "no corner twice"
            sides = np.diff(ring, axis=0)
            assert ((sides != 0).sum(1) == 1).all(), "along one axis at a time"
            assert ((sides[:, 0] != 0) != (np.roll(sides, 1, axis=0)[:, 0] != 0)).all(), "no corner that is none"
    assert sum(twice_area(ring) for part in parts for ring in part) == 2 * (labels == name).sum()


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_give_back_the_pixels(name: str) -> None:
    labels = SHAPES[name]
    outlines = polygons.trace(labels)
    np.testing.assert_array_equal(painted(outlines, labels.shape), labels)
    for cell, parts in outlines.items():
        check_valid(parts, labels, cell)


@pytest.mark.parametrize("seed", range(60))
def test_polygons_give_back_the_pixels_of_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(2, 6), rng.integers(1, 16, 2)) * int(rng.choice([1, 40_000]))
    outlines = polygons.trace(labels)
    assert sorted(outlines) == [name for name in np.unique(labels) if name]
    np.testing.assert_array_equal(painted(outlines, labels.shape), labels)
    for cell, parts in outlines.items():
        check_valid(parts, labels, cell)


def test_a_hole_belongs_to_its_part_and_parts_are_polygons_of_one_cell() -> None:
    labels = np.zeros((5, 11), int)
    labels[:, :5], labels[1:4, 1:4], labels[:, 6:], labels[2, 8] = 1, 0, 1, 0
    parts = sorted(polygons.trace(labels)[1], key=lambda part: part[0][:, 0].min())
    assert [len(part) for part in parts] == [2, 2]
    assert [part[1][:, 0].min() for part in parts] == [1, 8]


def test_an_empty_map_has_no_outline() -> None:
    assert polygons.trace(np.zeros((4, 4), int)) == {}


def test_a_pixel_is_inside_where_its_centre_is() -> None:
    triangle = np.array([[0.2, 0.2], [6.2, 0.2], [0.2, 6.2], [0.2, 0.2]])
    window, inside = polygons.fill([triangle], (5, 9))
    found = np.zeros((5, 9), bool)
    found[window] = inside
    y, x = np.mgrid[:5, :9] + 0.5
    np.testing.assert_array_equal(found, (x > 0.2) & (y > 0.2) & (x + y < 6.4))


def test_what_lies_outside_the_image_is_cut_off() -> None:
    square = np.array([[-3, -3], [2, -3], [2, 99], [-3, 99], [-3, -3]], float)
    window, inside = polygons.fill([square], (4, 6))
    assert inside.sum() == 2 * 4
    assert window == (slice(0, 4), slice(0, 2))
    assert not polygons.fill([square + 200], (4, 6))[1].any()


# -- GeoJSON ------------------------------------------------------------------------------------------------------


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


# -- label maps of others -----------------------------------------------------------------------------------------

LABELS = np.kron(np.arange(20).reshape(4, 5), np.ones((3, 3), int))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32"])
def test_tiff_label_maps_of_every_depth_are_read(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "x.tif", LABELS.astype(dtype))
    np.testing.assert_array_equal(geojson.read_labels(tmp_path / "x.tif", LABELS.shape).labels, LABELS)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_label_maps_are_read(tmp_path: Path, dtype: str) -> None:
    Image.fromarray(LABELS.astype(dtype)).save(tmp_path / "x.png")
    read = geojson.read_labels(tmp_path / "x.png").labels
    np.testing.assert_array_equal(read, LABELS)
    assert read.dtype == np.int32


def test_own_masks_of_many_cells_are_read(tmp_path: Path) -> None:
    many = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    labelmaps.write(tmp_path / "x.tif", many)
    np.testing.assert_array_equal(geojson.read_labels(tmp_path / "x.tif").labels, many)


def test_what_is_no_label_map_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    wrong: list[tuple[NDArray, dict[str, Any], str]] = [
        (np.repeat(LABELS[..., None], 3, 2).astype(np.uint8), {"photometric": "rgb"}, "colours, not labels"),
        (np.stack([LABELS] * 4).astype(np.uint16), {"metadata": {"axes": "ZYX"}}, "no plain label map"),
        (LABELS.astype(np.uint16), {"photometric": "miniswhite"}, "no plain label map"),
        (LABELS + 0.5, {}, "whole numbers"),
        ((LABELS - 1).astype(np.int16), {}, "whole numbers"),
        (np.where(LABELS == 3, 2**32 - 1, 0).astype(np.uint32), {}, "whole numbers"),
        (LABELS[:-1].astype(np.uint16), {}, "is for 15 x 11 px, its image has 15 x 12 px"),
    ]
    for pixels, how, message in wrong:
        tifffile.imwrite(path, pixels, **how)
        with pytest.raises(ImageError, match=message):
            geojson.read_labels(path, LABELS.shape)
    path.write_bytes(b"II*\0 and nothing else")
    with pytest.raises(ImageError):
        geojson.read_labels(path)


def test_limits_hold_for_label_maps(tmp_path: Path) -> None:
    labelmaps.write(tmp_path / "x.tif", np.ones((200, 200), np.int32))
    with pytest.raises(ImageError) as caught:
        geojson.read_labels(tmp_path / "x.tif", limits=Limits(max_megapixels=0.01))
    assert caught.value.reason is Reason.E_TOO_LARGE


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_a_pickle_is_refused_unread_and_the_safe_way_named(tmp_path: Path) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "ran")
    np.save(tmp_path / "cell_seg.npy", trap, allow_pickle=True)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for name in ("cell_seg.npy", "x.pkl"):
        with pytest.raises(UnsafeInput, match=r"Save masks as PNG/tif.*--save_tif"):
            geojson.read_labels(tmp_path / name)
    assert not (tmp_path / "ran").exists()


# -- CellProfiler's measurements ----------------------------------------------------------------------------------


def test_intensities_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (20, 20)) * 7
    pixels = rng.integers(0, 65536, (20, 20, 2)).astype(np.uint16)
    found = cellprofiler.intensities(labels, pixels, ("DNA", "Actin"))
    assert found.index.tolist() == [7, 14, 21]
    for label in found.index:
        for channel, name in enumerate(("DNA", "Actin")):
            values = pixels[labels == label][:, channel].astype(np.float32) / np.float32(65535)
            expected = {
                "MeanIntensity": values.mean(), "StdIntensity": values.std(), "MinIntensity": values.min(),
                "MaxIntensity": values.max(), "IntegratedIntensity": values.sum(), "MedianIntensity": np.median(values),
                "LowerQuartileIntensity": np.quantile(values, 0.25),
                "UpperQuartileIntensity": np.quantile(values, 0.75),
            }  # fmt: skip
            for what, value in expected.items():
                assert found.loc[label, f"Intensity_{what}_{name}"] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_shapes_are_those_of_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 4, (25, 31)) * 9 * (rng.random((25, 31)) < 0.8)
    smooth = np.kron(rng.integers(0, 5, (6, 7)), np.ones((5, 6), int))
    for labels in (rough, smooth, RING, np.arange(12).reshape(3, 4)):
        found = cellprofiler.shape_and_place(labels)
        wanted = ["label", "orientation", *dict.fromkeys(name.partition("-")[0] for name in SHAPE.values())]
        known = pd.DataFrame(regionprops_table(labels, properties=wanted)).set_index("label")
        assert found.index.tolist() == known.index.tolist()
        for name, own in SHAPE.items():
            np.testing.assert_allclose(found[f"AreaShape_{name}"], known[own], atol=1e-6, err_msg=name)
        stretched = known["eccentricity"] > 0.1
        turn = found["AreaShape_Orientation"] - np.degrees(known["orientation"])
        np.testing.assert_allclose((turn[stretched] + 90) % 180, 90, atol=1e-6)


def test_shapes_have_known_measures() -> None:
    labels = np.zeros((30, 40), int)
    labels[5:15, 10:30] = 3
    labels[20, 5] = 9
    found = cellprofiler.shape_and_place(labels)
    box = found.loc[3]
    known = {
        "Area": 200, "Center_X": 19.5, "Center_Y": 9.5, "BoundingBoxMinimum_X": 10, "BoundingBoxMaximum_X": 30,
        "BoundingBoxMinimum_Y": 5, "BoundingBoxMaximum_Y": 15, "Solidity": 1, "Extent": 1, "EulerNumber": 1,
        "MajorAxisLength": 20 * 2 / 3**0.5, "MinorAxisLength": 10 * 2 / 3**0.5, "Orientation": 90,
        "EquivalentDiameter": (800 / np.pi) ** 0.5,
    }  # fmt: skip
    for name, value in known.items():
        assert abs(box[f"AreaShape_{name}"]) == pytest.approx(value, rel=0.01), name
    assert (found["Location_Center_X"] == found["AreaShape_Center_X"]).all()
    assert np.isnan(found.loc[9, "AreaShape_FormFactor"]), "a single pixel has no perimeter"
