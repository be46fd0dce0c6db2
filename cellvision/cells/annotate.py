"""The few true labels of a lab: points or boxes in images, matched to cells, the unmatched counted.

CSV with image,x,y,label or image,x0,y0,x1,y1,label; `image` is the path under raw, or the bare name where unique, with
or without suffix, as any system writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError
from cellvision.core.progress import say
from cellvision.io import filenames, tables

if TYPE_CHECKING:
    import pandas as pd

MIN_IOU = 0.5
NAMED = ("image", "label")
BOX = ("x0", "y0", "x1", "y1")


def read(path: Path, images: pd.DataFrame) -> pd.DataFrame:
    """The annotations with the image_id each belongs to, or None where no image answers to the name.

    Labels are text as they were written; one without a label, or listed twice, is left out and counted. ConfigError
    names the line of a coordinate that is none, and stops where no image answers to any name.
    """
    import pandas as pd

    given = tables.read(path, text=[name for name in tables.names(path) if name.strip().lower() in NAMED] or NAMED)
    spelled = {str(name).strip().lower(): str(name) for name in reversed([*given.frame])}
    kinds = [columns for columns in (("x", "y"), BOX) if {*columns, *NAMED} <= {*spelled}]
    if not kinds:
        raise ConfigError(
            f"{path} needs the columns image,x,y,label or image,x0,y0,x1,y1,label; it has {', '.join(given.frame)}"
        )
    coordinates = [spelled[name] for name in kinds[0]]
    numbers = tables.numeric(given, coordinates, path).set_axis(list(kinds[0]), axis=1)
    table = given.frame.drop(columns=coordinates).rename(columns={spelled[name]: name for name in NAMED})
    table = table.assign(**numbers, label=tables.labels(path, [spelled["label"]]).iloc[:, 0].to_numpy())
    tables.refuse(path, table["image"].isna(), ", column 'image': no image is named")
    positions = filenames.match(table["image"].tolist(), images["path"].tolist())
    filenames.refuse_strangers(table["image"].tolist(), positions, images["path"].tolist(), str(path))
    ids = images["image_id"].tolist()
    table["image_id"] = pd.Series([None if at is None else ids[at] for at in positions], dtype=object)
    return _counted_once(table, path, list(kinds[0]))


def _counted_once(table: pd.DataFrame, path: Path, coordinates: list[str]) -> pd.DataFrame:
    """Without rows that have no label, or say again what another says of the same image, maybe by another name."""
    empty = table["label"].isna().to_numpy()
    if empty.any():
        where = tables.lines(path, np.flatnonzero(empty).tolist())
        say(f"annotations: {int(empty.sum())} have no label and are left out ({path.name}, {where})")
    image = table["image_id"].where(table["image_id"].notna(), table["image"])
    again = (table.assign(image=image).duplicated(["image", *coordinates, "label"]) & ~empty).to_numpy()
    if again.any():
        where = tables.lines(path, np.flatnonzero(again).tolist())
        say(f"annotations: {int(again.sum())} are listed again and count once ({path.name}, {where})")
    return table[~empty & ~again].reset_index(drop=True)


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


def refuse_strangers(matched: pd.DataFrame, cells: int, path: Path) -> None:
    """ConfigError where not one annotation lies in a cell: they are of other pixels, or of no cell."""
    if len(matched) and cells and (matched["status"] == "outside").all():
        names = ("x0", "y0") if "x0" in matched else ("x", "y")
        row = matched.iloc[0]
        place = ", ".join(f"{name} {row[name]:g}" for name in names)
        raise ConfigError(
            f"{path}: none of its {len(matched)} annotations lies in one of the {cells} cells, such as the one at "
            f"{place} of {row['image']!r}; coordinates are pixels from the upper left corner, x to the right"
        )


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
