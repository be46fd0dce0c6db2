"""Measurements of cells under CellProfiler's names: shape, place and intensity, one row a cell.

Names and definitions of MeasureObjectSizeShape and MeasureObjectIntensity of CellProfiler 4 (Stirling et al. 2021,
BMC Bioinformatics 22, 433). CellProfiler takes shapes from scikit-image; these are the same numbers (a test compares),
for all cells of an image at once instead of one by one. Quartiles are numpy's. Intensities are 0 to 1 where the file
held whole numbers, 1 being the largest its depth can hold.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import crop

if TYPE_CHECKING:
    import pandas as pd

Numbers = NDArray[np.float64]  # (n,) one a cell
AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
STEPS = {  # px of outline at a border pixel, by 2 x its neighbours at a side + 10 x at a corner that are border too
    **dict.fromkeys((4, 6, 14, 16, 24, 26), 1.0), 20: 2**0.5, 32: 2**0.5, 12: (1 + 2**0.5) / 2, 22: (1 + 2**0.5) / 2,
}  # fmt: skip
INTENSITY = (
    "IntegratedIntensity", "LowerQuartileIntensity", "MaxIntensity", "MeanIntensity", "MedianIntensity", "MinIntensity",
    "StdIntensity", "UpperQuartileIntensity",
)  # fmt: skip


def channel_names(count: int) -> tuple[str, ...]:
    """Names for channels that nobody has named."""
    return {1: ("Gray",), 3: ("Red", "Green", "Blue")}.get(count, tuple(f"Ch{number}" for number in range(count)))


def shape_and_place(labels: NDArray[np.integer]) -> pd.DataFrame:
    """(H, W) -> AreaShape_ and Location_ columns in px and degrees, one row a label; the index is the label."""
    import pandas as pd

    runs = crop.runs_of(labels.astype(np.int32, copy=False))
    first = runs.first
    names, index = runs.label[first], np.cumsum(np.diff(runs.label, prepend=0) != 0) - 1
    length = runs.end - runs.start
    area = _sums(length, first)
    found = _moments(runs, index, first, area)
    low_y, high_y = runs.row[first], runs.row[np.append(first[1:], len(index)) - 1 if len(first) else first] + 1
    low_x = np.minimum.reduceat(runs.start, first) if len(first) else area
    high_x = np.maximum.reduceat(runs.end, first) if len(first) else area
    box = (high_y - low_y) * (high_x - low_x)
    perimeter, euler = _outline(labels, names)
    convex = _convex_area(runs, first)
    with np.errstate(divide="ignore", invalid="ignore"):
        form = np.where(perimeter > 0, 4 * np.pi * area / perimeter**2, np.nan)
    found |= {
        "Area": area, "BoundingBoxArea": box, "BoundingBoxMaximum_X": high_x, "BoundingBoxMaximum_Y": high_y,
        "BoundingBoxMinimum_X": low_x, "BoundingBoxMinimum_Y": low_y, "Compactness": perimeter**2 / (4 * np.pi * area),
        "ConvexArea": convex, "EquivalentDiameter": np.sqrt(4 * area / np.pi), "EulerNumber": euler,
        "Extent": area / box, "FormFactor": form, "Perimeter": perimeter, "Solidity": area / convex,
    }  # fmt: skip
    table = pd.DataFrame({f"AreaShape_{name}": found[name] for name in sorted(found)}, index=names)
    return table.assign(Location_Center_X=found["Center_X"], Location_Center_Y=found["Center_Y"])


def _sums(values: NDArray[Any], first: NDArray[np.intp]) -> NDArray[Any]:
    """(m,) values, where the n stretches begin -> (n,) sums."""
    return np.add.reduceat(values, first) if len(first) else values[:0]


def _moments(
    runs: crop.Runs, index: NDArray[np.intp], first: NDArray[np.intp], area: NDArray[np.int64]
) -> dict[str, Any]:
    """Centre, and the ellipse with the same second moments; pixels are points."""
    length, middle = runs.end - runs.start, (runs.start + runs.end - 1) / 2
    y, x = _sums(runs.row * length, first) / area, _sums(middle * length, first) / area
    dy, dx = runs.row - y[index], middle - x[index]
    along_x = _sums(length * dx**2 + length * (length**2 - 1) / 12, first) / area
    along_y, both = _sums(length * dy**2, first) / area, _sums(length * dy * dx, first) / area
    mean, spread = (along_x + along_y) / 2, np.hypot((along_x - along_y) / 2, both)
    major, minor = mean + spread, np.maximum(mean - spread, 0)
    ratio = np.divide(minor, major, out=np.ones(len(area)), where=major > 0)
    turned = 0.5 * np.arctan2(2 * both, along_y - along_x)
    turned[along_x == along_y] = np.where(both > 0, np.pi / 4, -np.pi / 4)[along_x == along_y]
    return {
        "Center_X": x, "Center_Y": y, "Eccentricity": np.sqrt(1 - ratio), "MajorAxisLength": 4 * np.sqrt(major),
        "MinorAxisLength": 4 * np.sqrt(minor), "Orientation": np.degrees(turned),
    }  # fmt: skip


def _outline(labels: NDArray[np.integer], names: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """(n,) perimeter (Benkrid & Crookes 2000) and (n,) Euler number, parts that touch at a corner being one part."""
    padded = np.pad(labels, 1)
    inside = padded[1:-1, 1:-1]
    border = np.zeros(padded.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border[1:-1, 1:-1] |= inside != neighbour
    border &= padded > 0
    flat, at = padded.ravel(), np.flatnonzero(border)
    own = flat[at]
    beside = {step: at + step[0] * padded.shape[1] + step[1] for step in AROUND}
    same = {step: flat[place] == own for step, place in beside.items()}
    code = np.zeros(len(at), np.int64)
    for step, place in beside.items():
        code += (2 if 0 in step else 10) * (same[step] & border.ravel()[place])
    steps = np.array([STEPS.get(value, 0.0) for value in range(49)])
    eighths = np.zeros(len(at))  # Gray (1971): quads of pixels with one, three, or two opposite ones of the cell
    for y, x in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        side, other, corner = same[y, 0], same[0, x], same[y, x]
        eighths += np.where(side | other, -1.0 * ((side ^ other) & corner), np.where(corner, -2.0, 2.0))
    rank = np.searchsorted(names, own)
    perimeter = np.bincount(rank, weights=steps[code], minlength=len(names)).astype(np.float64)
    return perimeter, np.bincount(rank, weights=eighths, minlength=len(names)) / 8


def _convex_area(runs: crop.Runs, first: NDArray[np.intp]) -> NDArray[np.int64]:
    """(n,) pixels whose centre lies in the convex hull of the middles of the cell's pixels' sides."""
    import cv2

    if not len(first):
        return np.zeros(0, np.int64)
    left, right, row = 2 * runs.start, 2 * (runs.end - 1), 2 * runs.row  # in half pixels, so that all are whole
    corners = ((left, row - 1), (left, row + 1), (right, row - 1), (right, row + 1), (left - 1, row), (right + 1, row))
    points = np.stack([np.stack(corner, 1) for corner in corners], 1).astype(np.int32)
    hulls = [cv2.convexHull(points[low:high].reshape(-1, 2))[:, 0] for low, high in pairwise([*first, len(points)])]
    begin = np.concatenate(hulls).astype(np.int64)
    end = np.concatenate([np.roll(hull, -1, axis=0) for hull in hulls]).astype(np.int64)
    cell = np.repeat(np.arange(len(hulls)), [len(hull) for hull in hulls])
    turn = np.sign(np.bincount(cell, begin[:, 0] * end[:, 1] - end[:, 0] * begin[:, 1])).astype(np.int64)
    low, high = -(-np.minimum(begin[:, 1], end[:, 1]) // 2), -(-np.maximum(begin[:, 1], end[:, 1]) // 2)
    edge = np.repeat(np.arange(len(begin)), high - low)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edge]
    (x0, y0), (x1, y1) = begin[edge].T, end[edge].T
    across, whole = x0 * (y1 - y0) + (x1 - x0) * (2 * line - y0), 2 * (y1 - y0)
    is_right = (y1 - y0) * turn[cell[edge]] > 0
    # a row of the hull runs from its left edge to its right one, and has as many pixels as whole numbers between them
    pixels = np.where(is_right, across // whole + 1, across // -whole)
    return np.bincount(cell[edge], pixels, len(hulls)).astype(np.int64)


def intensities(labels: NDArray[np.integer], pixels: NDArray[Any], names: tuple[str, ...]) -> pd.DataFrame:
    """(H, W), (H, W, C) in their own depth, C names -> Intensity_<what>_<channel> columns; the index is the label."""
    import pandas as pd

    inside = labels > 0
    present, owner = np.unique(labels[inside], return_inverse=True)
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    columns: dict[str, Numbers] = {}
    for channel, name in enumerate(names):
        found = _by_owner(owner, pixels[..., channel][inside], len(present))
        columns |= {f"Intensity_{what}_{name}": column / largest for what, column in found.items()}
    return pd.DataFrame(columns, index=present.astype(np.int64))


def _by_owner(owner: NDArray[np.intp], values: NDArray[Any], count: int) -> dict[str, Numbers]:
    """(m,) owners 0..count-1, each at least once, and (m,) values -> each statistic of INTENSITY, (count,)."""
    ranked = _ranked(owner, values)
    size = np.bincount(owner, minlength=count)
    first = np.cumsum(size) - size
    if not count:
        return dict.fromkeys(INTENSITY, np.zeros(0))
    total = np.add.reduceat(ranked, first)
    mean = total / size
    spread = np.add.reduceat((ranked - np.repeat(mean, size)) ** 2, first)
    shares = (("LowerQuartileIntensity", 0.25), ("MedianIntensity", 0.5), ("UpperQuartileIntensity", 0.75))
    quartiles = {what: _quantile(ranked, first, size, share) for what, share in shares}
    return quartiles | {
        "IntegratedIntensity": total, "MaxIntensity": ranked[first + size - 1], "MeanIntensity": mean,
        "MinIntensity": ranked[first], "StdIntensity": np.sqrt(spread / size),
    }  # fmt: skip


def _ranked(owner: NDArray[np.intp], values: NDArray[Any]) -> Numbers:
    """(m,) values by owner, sorted within each."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:  # both fit into one whole number, which sorts faster
        low = np.iinfo(values.dtype).min
        both = np.sort(owner.astype(np.int64) << 16 | (values.astype(np.int64) - low))
        return ((both & 0xFFFF) + low).astype(np.float64)
    return values[np.lexsort((values, owner))].astype(np.float64)


def _quantile(ranked: Numbers, first: NDArray[np.int64], count: NDArray[np.int64], share: float) -> Numbers:
    """Sorted stretches -> one quantile each, linear between neighbours."""
    place = share * (count - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    return ranked[first + low] + (place - low) * (ranked[first + high] - ranked[first + low])
