"""Many cells, cells of any shape, images of any shape: every cell is kept, every image has its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from corpus import pillow, tiff
from raw_images import discs, put, segmented

from cellvision import segment
from cellvision.cells import cropstore
from cellvision.io import labelmaps
from cellvision.segmenters import Segmentation


class Labeller:
    """Every dark blob is a cell, so that a crowd takes no time."""

    def segment(self, pixels: Any) -> Segmentation:
        import cv2

        labels = cv2.connectedComponents((pixels[..., 0] < 130).astype(np.uint8))[1]
        return Segmentation(labels.astype(np.int32), {}, ())

    def identity(self) -> str:
        return "dark blobs"


@pytest.mark.parametrize(("count", "pitch", "radius"), [(114, 18, 6.0), (257, 8, 2.6)], ids=["12996", "66049"])
def test_every_cell_of_a_crowd_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, pitch: int, radius: float
) -> None:
    put(tmp_path / "raw" / "g" / "crowd.png", pillow(discs(count, pitch, radius), "PNG"))
    monkeypatch.setattr(segment, "_segmenter", lambda cfg: Labeller())
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["g/crowd.png", "n_cells"] == count**2
    labels = labelmaps.read(tmp_path / "cells" / "masks" / f"{images.loc['g/crowd.png', 'image_id']}.tif")
    cells = pd.read_parquet(tmp_path / "cells" / "cells.parquet").set_index("mask_label")
    assert labels.max() == len(cells) == cells.index.nunique()
    assert cells["item_id"].is_unique
    last = cells.loc[count**2]
    assert labels[round(last["y"]), round(last["x"])] == count**2, "a label above 65,535 is not cut to 16 bits"
    crops = cropstore.Crops(tmp_path / "cells" / "crops").take(np.arange(len(cells))[:: len(cells) // 50])
    assert ((crops[..., -1] > 0).sum((1, 2)) == cells["area_px"].to_numpy()[:: len(cells) // 50]).all()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8), np.full((64, 64), 65535, np.uint16),
        np.full((64, 64, 3), 255, np.uint8), np.zeros((10, 30_000), np.uint8), np.zeros((30_000, 10), np.uint8),
        np.full((64, 64), 0.5, np.float32), np.full((8, 8), 7, np.uint8),
    ],
    ids=lambda picture: f"{picture.shape}-{picture.dtype}-{picture.flat[0]}",
)  # fmt: skip
def test_flat_pictures_of_any_shape_divide_by_nothing(tmp_path: Path, picture: Any) -> None:
    put(tmp_path / "raw" / "g" / "flat.tif", tiff(picture))
    put(tmp_path / "raw" / "g" / "cells.png")
    with np.errstate(all="raise"):
        images = segmented(tmp_path / "raw", tmp_path / "cells")
    assert images.loc["g/flat.tif", ["reason", "n_cells"]].tolist() == ["E_NO_CELLS", 0]


def test_saturated_cells_are_found(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "g" / "hot.tif", tiff(np.where(discs() < 100, 65535, 40).astype(np.uint16)))
    assert segmented(tmp_path / "raw", tmp_path / "cells").loc["g/hot.tif", "n_cells"] == 4


def test_channels_are_taken_where_they_are_clear_and_asked_for_where_not(tmp_path: Path) -> None:
    for count in (1, 2, 3, 4, 5, 9):
        planes = np.stack([discs(dtype=np.uint16)] * count)
        put(tmp_path / "raw" / "g" / f"{count}.ome.tif", tiff(planes, ome=True, metadata={"axes": "CYX"}))
    images = segmented(tmp_path / "raw", tmp_path / "cells")
    unclear = {f"g/{count}.ome.tif" for count in (2, 4, 5, 9)}
    assert set(images.index[images["reason"] == "E_CHANNELS"]) == unclear
    assert images.loc[sorted(unclear), "note"].str.contains("--channels").all()
    assert images.loc["g/3.ome.tif", "n_cells"] == images.loc["g/1.ome.tif", "n_cells"] == 4
    first = segmented(tmp_path / "raw", tmp_path / "first", "--channels", "0")
    assert (first["n_cells"] == 4).all()


def test_pixel_sizes_are_recorded_as_far_as_they_are_known(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "none": {}, "half": {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}},
        "inch": {"resolution": (25_400, 25_400), "resolutionunit": "INCH"},
        "print": {"resolution": (300, 300), "resolutionunit": "INCH"},
    }  # fmt: skip
    for name, given in options.items():
        put(tmp_path / "raw" / "g" / f"{name}.tif", tiff(discs(), **given))
    sizes = segmented(tmp_path / "raw", tmp_path / "cells")["pixel_size_um"]
    assert sizes["g/half.tif"] == pytest.approx(0.5)
    assert sizes["g/inch.tif"] == pytest.approx(1.0)
    assert sizes[["g/none.tif", "g/print.tif"]].isna().all()
