"""What an item of an image is: a cell, the one object an image shows, or a tile of tissue.

A neuron with its arbor, or vessels cut lengthwise, are no single cells, and cutting them into some would make up data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import crop, shapes
from cellvision.io.components import components

Mode = Literal["cell", "object", "tile"]
MODES: tuple[Mode, ...] = ("cell", "object", "tile")

# auto: `object` where all of this holds of the largest cell, else `cell`; `tile` has to be declared
OWN = 0.5  # least share of all foreground that it holds
BRANCHED = 0.65  # its solidity is below
COVER = (0.03, 0.6)  # share of the image that it covers

REACH = 5  # px, pieces of one object lie closer together
TILE = 4  # side of a tile, in median cell diameters
FULL = 0.5  # least share of a tile that is foreground


def counted(found: Mapping[Any, int]) -> str:
    """How many items of each mode -> `12 cells, 1 object`; modes without any are left out, if there are any at all."""
    present = [mode for mode in MODES if found.get(mode)] or ["cell"]
    return ", ".join(f"{found.get(mode, 0)} {mode}{'' if found.get(mode) == 1 else 's'}" for mode in present)


def choose(masks: NDArray[np.int32]) -> Mode:
    """(H, W) cells -> `object` where one branched thing is most of what was found, `cell` otherwise."""
    cells = crop.measure(masks)
    if cells.empty:
        return "cell"
    largest = int(cells["area_px"].to_numpy().argmax())
    area, label = (int(cells[name].iloc[largest]) for name in ("area_px", "mask_label"))
    share, cover = area / int(cells["area_px"].sum()), area / masks.size
    if share < OWN or not COVER[0] <= cover <= COVER[1]:
        return "cell"
    return "object" if shapes.solidity(shapes.runs_of((masks == label).astype(np.uint8)))[0] < BRANCHED else "cell"


def as_items(masks: NDArray[np.int32], mode: Mode) -> NDArray[np.int32]:
    """(H, W) cells -> (H, W) items of that mode, labels 1..n."""
    if mode == "cell" or not masks.any():
        return masks
    return _largest_object(masks > 0) if mode == "object" else _tiles(masks)


def _largest_object(foreground: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The foreground that hangs together over gaps below REACH, where there is most of it, as label 1."""
    import cv2

    joined = cv2.dilate(foreground.astype(np.uint8), np.ones((REACH, REACH), np.uint8))
    labels = components(joined > 0, 8)
    labels[~foreground] = 0
    return (labels == np.bincount(labels[foreground]).argmax()).astype(np.int32) * foreground


def _tiles(masks: NDArray[np.int32]) -> NDArray[np.int32]:
    """Whole squares of a centred grid that hold enough foreground, in raster order."""
    area = np.bincount(masks.ravel())[1:]
    side = min(round(TILE * float(np.median(np.sqrt(4 / np.pi * area[area > 0])))), *masks.shape)
    down, across = (length // side for length in masks.shape)
    top, left = ((length - count * side) // 2 for length, count in zip(masks.shape, (down, across), strict=True))
    inside = masks[top : top + down * side, left : left + across * side] > 0
    full = inside.reshape(down, side, across, side).mean(axis=(1, 3)) >= FULL
    numbers = np.where(full, np.cumsum(full.ravel()).reshape(full.shape), 0)
    out = np.zeros_like(masks)
    out[top : top + down * side, left : left + across * side] = numbers.repeat(side, 0).repeat(side, 1)
    return out
