"""Pictures of cells: previews of masks, sheets of crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import modes
from cellvision.io import labelmaps
from cellvision.io.images.pixels import stretched
from cellvision.plots.base import figure, plain, save

if TYPE_CHECKING:
    import pandas as pd

SHOWN = (0.2, 99.8)  # percentiles of an image that become black and white in a picture of it
IMAGES_SHOWN, COLUMNS = 12, 4  # of the preview
TILE = 360  # px, side of an image in the preview
OUTLINE = (255, 214, 0)  # RGB
HALF = 127  # of a mask's 255: above lies the cell


def preview(
    entries: Iterable[Any], images: pd.DataFrame, folder: Path, path: Path, load: Callable[[Any], NDArray[np.uint8]]
) -> None:
    """Up to IMAGES_SHOWN images, spread over the groups, with the outlines of their items and how many there are.

    load: entry -> (H, W, C) uint8; folder: the label maps.
    """
    shown = images[images["status"] == "ok"].sort_values("path")
    shown = (
        shown.assign(turn=shown.groupby("group").cumcount())
        .sort_values(["turn", "group"])
        .head(IMAGES_SHOWN)
        .sort_values(["group", "path"])
    )
    by_id = {entry.image_id: entry for entry in entries}
    tiles = [
        outlined(stretched(load(by_id[row.image_id]), SHOWN), labelmaps.read(folder / f"{row.image_id}.tif"))
        for row in shown.itertuples()
    ]
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    tallest = max(tile.shape[0] for tile in tiles) / TILE
    drawing, axes = figure(3 * columns, (3 * tallest + 0.3) * rows, nrows=rows, ncols=columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, tile, row in zip(axes.flat, tiles, shown.itertuples(), strict=False):
        axis.imshow(tile)
        counts = {mode: getattr(row, f"n_{mode}s") for mode in modes.MODES}
        axis.set_title(f"{plain(row.group)}: {modes.counted(counts)}", fontsize=9)
    save(drawing, path)


def crop_sheet(crops: NDArray[np.uint8], columns: int, side: int = 72) -> NDArray[np.uint8]:
    """(n, S, S, C+1) -> one RGB sheet of n tiles, the cell's outline drawn thinly."""
    rows = -(-len(crops) // columns)
    sheet = np.full((rows * (side + 2), columns * (side + 2), 3), 255, np.uint8)
    for number, crop in enumerate(crops):
        y, x = (number // columns) * (side + 2), (number % columns) * (side + 2)
        sheet[y : y + side, x : x + side] = outlined(crop[..., :-1], (crop[..., -1] > HALF).astype(np.int32), side)
    return sheet


def outlined(pixels: NDArray[np.uint8], labels: NDArray[np.int32], side: int = TILE) -> NDArray[np.uint8]:
    """(H, W, C), (H, W) -> RGB with the cells' outlines, its longer side `side` px."""
    import cv2

    rgb = np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[..., :3]
    factor = side / max(rgb.shape[:2])
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    inside = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    edge = np.zeros(inside.shape, bool)
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    edge[1:] |= inside[1:] != inside[:-1]
    small[edge] = OUTLINE
    return small.astype(np.uint8)
