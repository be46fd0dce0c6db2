"""Masks that somebody already has take the place of a segmenter, whatever program wrote them."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import roifile
import tifffile
from corpus import pillow, tiff
from numpy.typing import NDArray
from raw_images import discs, put

from cellvision import predict, segment
from cellvision.commandline.cli import main
from cellvision.core import files
from cellvision.core.errors import ConfigError
from cellvision.io import imagejrois, labelmaps
from cellvision.io.components import components
from cellvision.io.images.pixels import ImageError
from cellvision.models import encoders

SIDE = 96


def labels() -> NDArray[np.int32]:
    """(96, 96) nine discs, numbered."""
    return components(discs(3) < 130, 4)


def ring(number: int) -> list[list[float]]:
    """The box of a disc, x and y of its corners."""
    y, x = np.nonzero(labels() == number)
    left, right, top, bottom = float(x.min()), float(x.max()) + 1, float(y.min()), float(y.max()) + 1
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def geojson(more: tuple[Any, ...] = ()) -> bytes:
    shapes = [ring(number) for number in range(1, 10)]
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [shape]}, "properties": {}}
                for shape in [*more, *shapes]]  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def rois(*more: roifile.ImagejRoi) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(1, 10):
            archive.writestr(f"{number}.roi", roifile.ImagejRoi.frompoints(np.array(ring(number)[:-1])).tobytes())
        for number, region in enumerate(more):
            archive.writestr(f"more{number}.roi", region.tobytes())
    return buffer.getvalue()


REGION = [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE], [0, 0]]
LINE = roifile.ImagejRoi.frompoints(np.array([[1.0, 1], [50, 50], [60, 20]]))
LINE.roitype = roifile.ROI_TYPE.POLYLINE
MAPS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "tif": ("one.tif", lambda: tiff(labels().astype(np.uint16))),
    "cellpose tif": ("one_cp_masks.tif", lambda: tiff(labels().astype(np.uint16))),
    "cellpose png": ("one_cp_masks.png", lambda: pillow(labels().astype(np.uint8), "PNG")),
    "masks": ("one_masks.tif", lambda: tiff(labels().astype(np.int64))),
    "label": ("one_label.tif", lambda: tiff((labels() * 20000).astype(np.uint32))),
    "binary 255": ("one_mask.png", lambda: pillow(((labels() > 0) * 255).astype(np.uint8), "PNG")),
    "binary 1": ("one.png", lambda: pillow((labels() > 0).astype(np.uint8), "PNG")),
    "float": ("one.tif", lambda: tiff(labels().astype(np.float32))),
    "geojson": ("one.geojson", geojson),
    "geojson with a region around": ("one.geojson", lambda: geojson((REGION,))),
    "rois": ("one.zip", rois),
    "rois and a line": ("one.zip", lambda: rois(LINE)),
    "rois and a region around": ("one.zip", lambda: rois(roifile.ImagejRoi.frompoints(np.array(REGION[:-1])))),
}


def cut(root: Path, *flags: str) -> int:
    return main("segment", ["--raw", str(root / "raw"), "--masks", str(root / "masks"), "--out", str(root / "run"),
                            "--workers", "0", *flags])  # fmt: skip


def given(root: Path, name: str, data: bytes, images: tuple[str, ...] = ("one",)) -> None:
    for image in images:
        put(root / "raw" / "g" / f"{image}.png", pillow(discs(3), "PNG"))
    put(root / "masks" / "g" / name, data)


@pytest.mark.parametrize(("name", "data"), MAPS.values(), ids=MAPS)
def test_cells_are_those_of_the_masks(tmp_path: Path, name: str, data: Callable[[], bytes]) -> None:
    given(tmp_path, name, data())
    assert cut(tmp_path) == 0
    cells = pd.read_parquet(tmp_path / "run" / "cells.parquet")
    assert len(cells) == 9
    np.testing.assert_allclose(np.sort(cells["area_px"]), np.sort(np.bincount(labels().ravel())[1:]), rtol=0.4)
    if not name.endswith(("json", "zip")):
        masks = labelmaps.read(next((tmp_path / "run" / "masks").iterdir()))
        np.testing.assert_array_equal(components(masks > 0, 4), labels())
    assert files.read_json(tmp_path / "run" / "run.json")["inputs"]["segmenter"] == "masks"


ROWS: dict[str, tuple[dict[str, bytes], str, str]] = {
    "none": ({}, "E_NO_MASK", "no label map of its name"),
    "several": ({"two.tif": tiff(labels().astype(np.uint16)), "two.png": pillow(labels().astype(np.uint8), "PNG")},
                "E_NO_MASK", "several label maps"),
    "a pickle": ({"two_seg.npy": b"\x93NUMPY"}, "E_NO_MASK", "never loaded; save label maps instead"),
    "another size": ({"two.tif": tiff(labels()[:50].astype(np.uint16))}, "E_CORRUPT", "96 x 50 px, its image has"),
    "colours": ({"two.png": pillow(np.zeros((SIDE, SIDE, 3), np.uint8), "PNG")}, "E_CHANNELS", "holds colours"),
    "no regions": ({"two.zip": b"PK\x05\x06" + bytes(18)}, "E_NOT_IMAGE", "holds no .roi"),
    "no cells": ({"two.tif": tiff(np.zeros((SIDE, SIDE), np.uint16))}, "E_NO_CELLS", ""),
}  # fmt: skip


@pytest.mark.parametrize(("more", "reason", "note"), ROWS.values(), ids=ROWS)
def test_an_image_without_a_usable_mask_is_a_row_with_the_reason(
    tmp_path: Path, more: dict[str, bytes], reason: str, note: str
) -> None:
    given(tmp_path, "one.tif", tiff(labels().astype(np.uint16)), ("one", "two"))
    for name, data in more.items():
        put(tmp_path / "masks" / "g" / name, data)
    assert cut(tmp_path) == 0
    row = pd.read_parquet(tmp_path / "run" / "images.parquet").set_index("path").loc["g/two.png"]
    assert row["reason"] == reason
    assert note in row["note"]


ONE = {"one.tif": tiff(labels().astype(np.uint16))}


@pytest.mark.parametrize(("maps", "flags", "code", "said"), [
    ({"one_seg.npy": b"\x93NUMPY"}, (), 5, "may hold code (a pickle) and is never loaded; save label maps instead"),
    ({"one.txt": b"a"}, (), 4, "no label maps below"),
    ({"other.tif": tiff(labels().astype(np.uint16))}, (), 3, "belongs to an image; 'g/one.png' wants one of its name"),
    (ONE, ("--segmenter", "threshold"), 4, "--segmenter has an effect only without --masks"),
    (ONE, ("--device", "cuda"), 4, "--device has an effect only with a segmenter that"),
])  # fmt: skip
def test_what_cannot_be_meant_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    maps: dict[str, bytes],
    flags: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    for name, data in maps.items():
        given(tmp_path, name, data)
    assert cut(tmp_path, *flags) == code
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_changed_masks_are_another_run(tmp_path: Path) -> None:
    given(tmp_path, "one.tif", tiff(labels().astype(np.uint16)))
    assert cut(tmp_path) == 0
    put(tmp_path / "masks" / "g" / "one.tif", tiff((labels() > 4).astype(np.uint16)))
    assert cut(tmp_path) == 4


def test_one_object_in_pieces_stays_one_where_objects_are_asked_for(tmp_path: Path) -> None:
    given(tmp_path, "one.tif", tiff((labels() > 0).astype(np.uint8)))
    assert cut(tmp_path, "--mode", "object") == 0
    assert len(pd.read_parquet(tmp_path / "run" / "cells.parquet")) == 1


def test_new_images_of_a_model_cut_by_masks_need_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = {"segment": {}, "segmenter": "masks"}
    geometry = {"size": 32, "scale": 1.0, "context": 0.1, "channels": 1}
    monkeypatch.setattr(encoders, "read_facts", lambda folder: {"schema": {"geometry": geometry}})
    cfg = predict.Config(model=tmp_path, raw=tmp_path)
    with pytest.raises(ConfigError, match="give those of the new ones: --masks"):
        predict.cut_like_training(cfg, bundle)
    assert (
        predict.cut_like_training(predict.Config(model=tmp_path, raw=tmp_path, masks=tmp_path), bundle).masks
        == tmp_path
    )


@pytest.mark.parametrize("segmenter", ["threshold", "nano"])
def test_a_device_has_an_effect_on_networks_alone(segmenter: str) -> None:
    options = {"raw": "raw", "segmenter": segmenter, "device": "cuda"}
    if segmenter == "nano":
        assert segment.Config(**options).device == "cuda"
    else:
        with pytest.raises(ConfigError, match="--device has an effect only with a segmenter that is a network"):
            segment.Config(**options)
        assert segment.Config(**options | {"device": "cpu"}).device == "cpu"


@pytest.mark.parametrize("seed", range(60))
def test_damaged_regions_are_one_error(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(rois() if seed % 2 else roifile.ImagejRoi.frompoints(np.array(ring(1)[:-1])).tobytes())
    for place in rng.integers(0, len(data), 6):
        data[place] = rng.integers(0, 256)
    path = tmp_path / ("a.zip" if seed % 2 else "a.roi")
    path.write_bytes(bytes(data[: rng.integers(1, len(data))] if seed % 3 else data))
    with contextlib.suppress(ImageError):  # anything else is a fault
        assert all(len(points) > 3 for shape in imagejrois.read(path) for points in shape)


def test_regions_that_unpack_to_too_much_are_refused_before(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(300_000_000))
    with pytest.raises(ImageError, match="more than 256 MB"):
        imagejrois.read(tmp_path / "a.zip")


def test_masks_of_a_run_are_masks(tmp_path: Path) -> None:
    given(tmp_path, "one.tif", tiff(labels().astype(np.uint16)))
    assert cut(tmp_path) == 0
    again = tmp_path / "again"
    segment.run(segment.Config(raw=tmp_path / "raw", masks=tmp_path / "run" / "masks", workers=0), again)
    first, second = (tifffile.imread(next((run / "masks").iterdir())) for run in (tmp_path / "run", again))
    np.testing.assert_array_equal(first, second)
