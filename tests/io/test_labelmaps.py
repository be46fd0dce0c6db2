"""Label maps of others are read, what is none is refused with the reason."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from trap import Trap

from cellvision.core.errors import UnsafeInput
from cellvision.io import geojson, labelmaps
from cellvision.io.images.pixels import ImageError, Limits, Reason

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


def test_a_pickle_is_refused_unread_and_the_safe_way_named(tmp_path: Path) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "ran")
    np.save(tmp_path / "cell_seg.npy", trap, allow_pickle=True)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    for name in ("cell_seg.npy", "x.pkl"):
        with pytest.raises(UnsafeInput, match=r"Save masks as PNG/tif.*--save_tif"):
            geojson.read_labels(tmp_path / name)
    assert not (tmp_path / "ran").exists()
