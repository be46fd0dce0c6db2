"""Cells of a label map, and the crops cut around them: one size and one scale for a whole run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import shapes

if TYPE_CHECKING:
    import pandas as pd

SHARE_FITTING = 0.95  # of the cells of every group fit into a crop unscaled
STEP = 16  # px, crop sides are multiples of this


@dataclass(frozen=True)
class Geometry:
    """size: px, side of a stored crop; scale: stored px per image px; context: margin, fraction of the cell's side."""

    size: int
    scale: float
    context: float


def measure(masks: NDArray[np.int32]) -> pd.DataFrame:
    """(H, W) labels -> one row a cell: mask_label, y, x (centroid, px), bbox y0 x0 y1 x1, area_px, touches_border."""
    import pandas as pd

    runs = shapes.runs_of(masks)
    columns = (runs.names, *shapes.centres(runs), *shapes.boxes(runs).T, shapes.areas(runs))
    names = ("mask_label", "y", "x", "y0", "x0", "y1", "x1", "area_px")
    table = pd.DataFrame(dict(zip(names, columns, strict=True)))
    height, width = masks.shape
    touching = (table["y0"] == 0) | (table["x0"] == 0) | (table["y1"] == height) | (table["x1"] == width)
    whole = dict.fromkeys(("mask_label", "y0", "x0", "y1", "x1", "area_px"), np.int32)
    return table.astype(whole | {"y": np.float32, "x": np.float32}).assign(touches_border=touching)


def extent(cells: pd.DataFrame, context: float) -> pd.Series:
    """px, side of the square that holds the cell and its margin."""
    longer = np.maximum(cells["y1"] - cells["y0"], cells["x1"] - cells["x0"])
    return longer * (1 + 2 * context)


def choose_geometry(cells: pd.DataFrame, context: float, max_size: int) -> Geometry:
    """The smallest size that holds SHARE_FITTING of every group's cells; a scale below 1 where that is too much."""
    sides = extent(cells, context).groupby(cells["group"]).quantile(SHARE_FITTING)
    needed = float(sides.max()) if len(sides) else STEP
    scale = min(1.0, max_size / needed)
    size = min(max_size, STEP * int(np.ceil(needed * scale / STEP)))
    return Geometry(max(size, 2 * STEP), scale, context)


def cell_scales(cells: pd.DataFrame, geometry: Geometry) -> NDArray[np.float32]:
    """(n,) scale of each cell: the run's, or its own smaller one where the cell would not fit."""
    fitting = geometry.size / np.maximum(extent(cells, geometry.context).to_numpy(np.float64), 1)
    return np.minimum(geometry.scale, fitting).astype(np.float32)


def cut(pixels: NDArray[np.uint8], masks: NDArray[np.int32], cells: pd.DataFrame, size: int) -> NDArray[np.uint8]:
    """(H, W, C), (H, W), n cells with a scale each -> (n, size, size, C+1), the cell's mask (0 or 255) last.

    The window is centred on the cell's box; beyond the image lies its median colour and the mask is 0.
    """
    import cv2

    out = np.empty((len(cells), size, size, pixels.shape[2] + 1), np.uint8)
    beyond = median_colour(pixels)
    for row, cell in enumerate(cells.itertuples(index=False)):
        side = max(size, round(size / cell.scale))
        top, left = (cell.y0 + cell.y1 - side) // 2, (cell.x0 + cell.x1 - side) // 2
        window = _window(pixels, top, left, side, beyond)
        cell_mask = (_window(masks, top, left, side, 0) == cell.mask_label).astype(np.uint8) * 255
        if side != size:
            window = cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA).reshape(size, size, -1)
            cell_mask = np.where(cv2.resize(cell_mask, (size, size), interpolation=cv2.INTER_AREA) > 127, 255, 0)
        out[row, ..., :-1] = window
        out[row, ..., -1] = cell_mask
    return out


def median_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (C,), the median of each channel, the lower of two: unlike a repeated border it draws no streaks."""
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(pixels, 2, 0)])
    return (counts.cumsum(1) < (pixels[..., 0].size + 1) // 2).sum(1).astype(np.uint8)


def _window(array: NDArray, top: int, left: int, side: int, beyond: NDArray | int) -> NDArray:
    """The square window of an image, filled with `beyond` where it reaches out of it."""
    height, width = array.shape[:2]
    rows, columns = slice(max(top, 0), max(top + side, 0)), slice(max(left, 0), max(left + side, 0))
    if top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return array[rows, columns]
    out = np.empty((side, side, *array.shape[2:]), array.dtype)
    out[:] = beyond
    inside = array[rows, columns]
    y, x = rows.start - top, columns.start - left
    out[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return out
