"""Cells measured and cut: known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from painted_cells import painted

from cellvision.cells import crop


def test_measured_cells_are_the_painted_ones() -> None:
    cells = crop.measure(painted()[1])
    assert cells[["mask_label", "y0", "x0", "y1", "x1", "area_px"]].to_numpy().tolist() == [
        [1, 25, 30, 35, 44, 140], [2, 0, 0, 6, 8, 48],
    ]  # fmt: skip
    assert cells["y"].tolist() == pytest.approx([29.5, 2.5])
    assert cells["touches_border"].tolist() == [False, True]


def test_a_crop_is_centred_on_its_cell_and_padded_with_the_median() -> None:
    pixels, masks = painted()
    crops = crop.cut(pixels, masks, crop.measure(masks).assign(scale=1.0), 32)
    assert crops.shape == (2, 32, 32, 4)
    middle, corner = crops
    assert np.array_equal(middle[..., :2], pixels[14:46, 21:53, :2])
    assert np.array_equal(np.unique(middle[..., 3]), [0, 255])
    y, x = np.nonzero(middle[..., 3])
    assert (y.min() + y.max() + 1, x.min() + x.max() + 1) == (32, 32)  # centre of the box = centre of the crop
    top, left = 13, 12  # px of the corner's window that lie beyond the image
    assert np.array_equal(corner[top:, left:, :2], pixels[:19, :20, :2])
    fill = np.median(pixels[..., :2], axis=(0, 1)).astype(np.uint8)
    assert np.array_equal(corner[:top, :, :2], np.broadcast_to(fill, (top, 32, 2)))
    assert corner[:top, :, 3].max() == 0 == corner[:, :left, 3].max()
    assert (corner[..., 3] > 0).sum() == 48


def test_a_cell_that_does_not_fit_gets_its_own_scale() -> None:
    pixels, masks = painted()
    cells = crop.measure(masks)
    scales = crop.cell_scales(cells, crop.Geometry(16, 1.0, 0.25))
    assert scales.tolist() == pytest.approx([16 / 21, 1.0])
    shrunk = crop.cut(pixels, masks, cells.assign(scale=scales), 16)[0]
    assert (shrunk[..., 3] > 0).sum() == pytest.approx(140 * (16 / 21) ** 2, rel=0.15)


def test_the_chosen_size_holds_the_cells_of_every_group() -> None:
    cells = pd.DataFrame({"y0": 0, "x0": 0, "y1": [20] * 50 + [60] * 50, "x1": 20, "group": ["a"] * 50 + ["b"] * 50})
    assert crop.choose_geometry(cells, 0.15, 160) == crop.Geometry(80, 1.0, 0.15)  # 60 * 1.3 = 78, in steps of 16
    assert crop.choose_geometry(cells, 0.15, 64) == crop.Geometry(64, 64 / 78, 0.15)
