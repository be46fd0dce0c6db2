"""The few true labels of a lab: points or boxes in images, matched to cells, the unmatched counted.

CSV with image,x,y,label or image,x0,y0,x1,y1,label; `image` is the path under raw, or the bare name where unique.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError
from cellvision.io import tables

if TYPE_CHECKING:
    import pandas as pd

MIN_IOU = 0.5
BOX = ("x0", "y0", "x1", "y1")


def read(path: Path, images: pd.DataFrame) -> pd.DataFrame:
    """The annotations with the image_id each belongs to, or None where no image answers to the name.

    Images and labels are text as they were written. ConfigError names the line of a coordinate that is none.
    """
    import pandas as pd

    given = tables.read(path, text=("image", "label"))
    table = given.frame
    kinds = [columns for columns in (("x", "y"), BOX) if {*columns, "image", "label"} <= set(table.columns)]
    if not kinds:
        raise ConfigError(
            f"{path} needs the columns image,x,y,label or image,x0,y0,x1,y1,label; it has {', '.join(table)}"
        )
    coordinates = list(kinds[0])
    table[coordinates] = tables.numeric(given, coordinates, path)
    nameless = table["image"].isna().to_numpy()
    if nameless.any():
        raise ConfigError(f"{tables.place(path, int(nameless.argmax()))}, column 'image': no image is named")
    names = images["path"].str.rsplit("/", n=1).str[-1]
    by_name = dict(
        zip(names[~names.duplicated(keep=False)], images.loc[~names.duplicated(keep=False), "image_id"], strict=True)
    )
    by_path = dict(zip(images["path"], images["image_id"], strict=True))
    image_ids = [by_path.get(name, by_name.get(name)) for name in table["image"]]
    return table.assign(image_id=pd.Series(image_ids, dtype=object))


def match(annotations: pd.DataFrame, masks: NDArray[np.int32], cells: pd.DataFrame) -> pd.DataFrame:
    """One image's annotations, its (H, W) labels and cells -> mask_label (0: none), status matched, outside or shared.

    A point belongs to the cell whose mask it lies in; a cell with several points is `shared` and none of them counts.
    A box belongs to the cell whose box overlaps it best, at an IoU of MIN_IOU or more, one to one.
    """
    labels = _boxes(annotations, cells) if "x0" in annotations else _points(annotations, masks)
    hits = np.bincount(labels, minlength=int(masks.max(initial=0)) + 1)
    shared = hits[labels] > 1
    status = np.where(labels == 0, "outside", np.where(shared, "shared", "matched"))
    return annotations.assign(mask_label=labels, status=status)


def _points(annotations: pd.DataFrame, masks: NDArray[np.int32]) -> NDArray[np.int64]:
    y, x = (annotations[name].to_numpy(float).round().astype(int) for name in ("y", "x"))
    inside = (y >= 0) & (x >= 0) & (y < masks.shape[0]) & (x < masks.shape[1])
    return np.where(inside, masks[np.where(inside, y, 0), np.where(inside, x, 0)], 0).astype(np.int64)


def _boxes(annotations: pd.DataFrame, cells: pd.DataFrame) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    if cells.empty:
        return np.zeros(len(annotations), np.int64)
    overlap = iou(annotations[list(BOX)].to_numpy(float), cells[list(BOX)].to_numpy(float))
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    good = overlap[rows, columns] >= MIN_IOU
    labels = np.zeros(len(annotations), np.int64)
    labels[rows[good]] = cells["mask_label"].to_numpy()[columns[good]]
    return labels


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes x0 y0 x1 y1 -> (n, m) intersection over union."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    return common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9)
