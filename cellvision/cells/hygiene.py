"""From what a segmenter found in one image to its items: no letters, the declared mode, measured, flagged, dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import modes, overlays, quality

if TYPE_CHECKING:
    import pandas as pd

COUNTS = {mode: f"n_{mode}s" for mode in modes.MODES}  # columns of images.parquet
OF_SINGLE_CELLS: tuple[quality.Flag, ...] = ("small", "large", "ragged")  # flags that say nothing of other items
EMPTY: dict[str, Any] = {
    "mode": None, "n_cells": 0, "n_objects": 0, "n_tiles": 0, "n_overlay": 0, "n_dropped": 0,
    **{f"dropped_{flag}": 0 for flag in quality.FLAGS}, "coverage": 0.0, "median_diameter_px": None, "focus": None,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sifted:
    """labels: (H, W) items, the dropped ones too; items: the rows kept; row: columns of the image's row; notes."""

    labels: NDArray[np.int32]
    items: pd.DataFrame
    row: dict[str, Any]
    notes: tuple[str, ...]


def sift(
    masks: NDArray[np.int32],
    scores: Mapping[str, NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    wanted: modes.Mode | Literal["auto"],
    drop: tuple[quality.Flag, ...],
) -> Sifted:
    """(H, W) cells with (n,) scores, (H, W, C) uint8 -> the items of one image, from nothing but that image."""
    overlay, drawn = overlays.find(pixels)
    masks, hidden = overlays.clear_of(masks, overlay)
    mode = modes.choose(masks) if wanted == "auto" else wanted
    labels = modes.as_items(masks, mode)
    items, measured = quality.describe(labels, pixels, scores if mode == "cell" else {})
    items = items.assign(mode=mode)
    if mode != "cell":
        items[list(OF_SINGLE_CELLS)] = False
    if mode == "tile":
        items["border"] = False  # a whole tile at the border is not cut by it
    kept, dropped = quality.drop(items, drop)
    row = EMPTY | measured | dropped | {"mode": mode, COUNTS[mode]: len(kept), "n_overlay": hidden}
    notes = [overlays.note(drawn, hidden)] if drawn else []
    if wanted == "auto" and mode != "cell":
        notes.append(f"mode {mode}: one branched {mode} is most of what was found; --mode cell takes single cells")
    return Sifted(labels, kept, row, tuple(notes))
