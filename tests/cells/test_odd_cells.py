"""Cells at borders, of one pixel, nested, touching, as large as the image: measured and cut."""

from __future__ import annotations

import numpy as np
import pytest

from cellvision.cells import crop


def test_cells_at_borders_of_one_pixel_nested_and_touching_are_measured() -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[0:6, 10:20] = 1  # at the border
    labels[20, 30] = 2  # one pixel
    labels[10:19, 5:15] = 3
    labels[13:15, 8:10] = 4  # inside of 3
    labels[10:19, 15:25] = 5  # touches 3
    table = crop.measure(labels)
    cells = table.set_index("mask_label")
    assert cells["touches_border"].to_dict() == {1: True, 2: False, 3: False, 4: False, 5: False}
    assert cells["area_px"].to_dict() == {1: 60, 2: 1, 3: 86, 4: 4, 5: 90}
    table["scale"] = np.float32(1)
    crops = crop.cut(np.zeros((40, 50, 1), np.uint8), labels, table, 32)
    assert ((crops[..., -1] > 0).sum((1, 2)) == table["area_px"]).all()


def test_one_cell_that_fills_the_image_is_measured_and_cut() -> None:
    table = crop.measure(np.ones((40, 50), np.int32))
    assert table["touches_border"].all()
    table["scale"] = np.float32(0.5)
    mask = crop.cut(np.zeros((40, 50, 1), np.uint8), np.ones((40, 50), np.int32), table, 32)[0, ..., -1]
    assert (mask > 0).sum() == pytest.approx(20 * 25, rel=0.05)
