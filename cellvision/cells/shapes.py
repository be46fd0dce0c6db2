"""The one measurement of a mask: area, box, centre, axes, outline and convex hull of all cells of a label map at once.

Definitions are those of scikit-image's `regionprops` (a test compares), so a number has one value wherever it is shown:
in cells.parquet, in CellProfiler tables, among hand-made features, inside a segmenter. Lengths are in px; rows are
in the order of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]  # (n,) one a cell

AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
STEPS = {  # px of outline at a border pixel, by 2 x its neighbours at a side + 10 x at a corner that are border too
    **dict.fromkeys((4, 6, 14, 16, 24, 26), 1.0), 20: 2**0.5, 32: 2**0.5, 12: (1 + 2**0.5) / 2, 22: (1 + 2**0.5) / 2,
}  # fmt: skip
CODES = 2 * 4 + 10 * 4 + 1  # how many values such a sum may have


@dataclass(frozen=True)
class Runs:
    """The stretches of pixels of one label in one row, sorted by label, then row, then column; (m,) int64 each."""

    label: NDArray[np.int64]
    row: NDArray[np.int64]
    start: NDArray[np.int64]  # px, first column
    end: NDArray[np.int64]  # px, one beyond the last column

    @cached_property
    def first(self) -> NDArray[np.intp]:
        """(n,) where the runs of each label begin."""
        return np.flatnonzero(np.diff(self.label, prepend=0))

    @property
    def names(self) -> NDArray[np.int64]:
        """(n,) the labels, rising."""
        return self.label[self.first]

    @property
    def length(self) -> NDArray[np.int64]:
        """(m,) px."""
        return self.end - self.start


@dataclass(frozen=True)
class Ellipses:
    """The ellipses with the cells' second moments, pixels being points; (n,) each."""

    y: Numbers  # px, centre
    x: Numbers
    major: Numbers  # px, full axes
    minor: Numbers
    eccentricity: Numbers
    orientation: Numbers  # radians from the vertical to the major axis


def runs_of(labels: NDArray[np.integer]) -> Runs:
    """(H, W) labels -> the runs of everything that is above 0."""
    width = labels.shape[1]
    padded = np.zeros((labels.shape[0] + 1, width + 1), labels.dtype)
    padded[:-1, :width] = labels
    flat = padded.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], changes])
    ends = np.concatenate([changes, [flat.size]])
    inside = flat[starts] > 0
    starts, ends = starts[inside], ends[inside]
    order = np.argsort(flat[starts], kind="stable")
    starts, ends = starts[order], ends[order]
    row = starts // (width + 1)
    return Runs(flat[starts].astype(np.int64), row, starts - row * (width + 1), ends - row * (width + 1))


def stacked(masks: NDArray[np.bool_]) -> tuple[NDArray[np.int32], Runs]:
    """(n, S, S) masks of crops -> (n * S, S) labels 1..n, one below the other; their runs, rows as in each crop."""
    numbers = np.arange(1, len(masks) + 1, dtype=np.int32)[:, None, None]
    labels = (masks * numbers).reshape(-1, masks.shape[2]).astype(np.int32)
    runs = runs_of(labels)
    return labels, replace(runs, row=runs.row % masks.shape[1])


# -- area, box, centre, axes --------------------------------------------------------------------------------------


def areas(runs: Runs) -> NDArray[np.int64]:
    """(n,) pixels of each cell."""
    return _sums(runs.length, runs.first)


def boxes(runs: Runs) -> NDArray[np.int64]:
    """(n, 4) y0, x0, y1, x1 of each cell, the last two one beyond it."""
    if not len(runs.first):
        return np.zeros((0, 4), np.int64)
    least = [np.minimum.reduceat(edge, runs.first) for edge in (runs.row, runs.start)]
    most = [np.maximum.reduceat(edge, runs.first) for edge in (runs.row + 1, runs.end)]
    return np.stack([*least, *most], axis=1)


def centres(runs: Runs) -> tuple[Numbers, Numbers]:
    """y and x of each cell's centroid, (n,) each."""
    area, middle = areas(runs), (runs.start + runs.end - 1) / 2
    return _sums(runs.row * runs.length, runs.first) / area, _sums(middle * runs.length, runs.first) / area


def ellipses(runs: Runs) -> Ellipses:
    """Centre, axes and direction of each cell; a single pixel has axes of 0 and no eccentricity."""
    area, length, middle = areas(runs), runs.length, (runs.start + runs.end - 1) / 2
    y, x = centres(runs)
    cell = np.repeat(np.arange(len(area)), np.diff(np.append(runs.first, len(length))))
    dy, dx = runs.row - y[cell], middle - x[cell]
    along_x = _sums(length * dx**2 + length * (length**2 - 1) / 12, runs.first) / area
    along_y, mixed = _sums(length * dy**2, runs.first) / area, _sums(length * dy * dx, runs.first) / area
    mean, spread = (along_x + along_y) / 2, np.hypot((along_x - along_y) / 2, mixed)
    major, minor = mean + spread, np.maximum(mean - spread, 0)
    ratio = np.divide(minor, major, out=np.ones(len(area)), where=major > 0)
    turned = 0.5 * np.arctan2(2 * mixed, along_y - along_x)
    level = along_x == along_y
    turned[level] = np.where(mixed > 0, np.pi / 4, -np.pi / 4)[level]
    return Ellipses(y, x, 4 * np.sqrt(major), 4 * np.sqrt(minor), np.sqrt(1 - ratio), turned)


def _sums(values: NDArray[Any], first: NDArray[np.intp]) -> NDArray[Any]:
    """(m,) values, where the n stretches begin -> (n,) sums."""
    return np.add.reduceat(values, first) if len(first) else values[:0]


# -- outline ------------------------------------------------------------------------------------------------------


def outlines(labels: NDArray[np.integer], names: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """(H, W), its n labels -> perimeter in px (Benkrid & Crookes 2000) and Euler number, (n,) each.

    Parts that touch at a corner are one part.
    """
    padded = np.pad(labels, 1)
    inside = padded[1:-1, 1:-1]
    border = np.zeros(padded.shape, bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        border[1:-1, 1:-1] |= inside != neighbour
    border &= padded > 0
    flat, at = padded.ravel(), np.flatnonzero(border)
    label = flat[at]
    beside = {step: at + step[0] * padded.shape[1] + step[1] for step in AROUND}
    same = {step: flat[place] == label for step, place in beside.items()}
    code = np.zeros(len(at), np.int64)
    for step, place in beside.items():
        code += (2 if 0 in step else 10) * (same[step] & border.ravel()[place])
    steps = np.array([STEPS.get(value, 0.0) for value in range(CODES)])
    eighths = np.zeros(len(at))  # Gray (1971): quads of pixels with one, three, or two opposite ones of the cell
    for y, x in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        side, other, corner = same[y, 0], same[0, x], same[y, x]
        eighths += np.where(side | other, -1.0 * ((side ^ other) & corner), np.where(corner, -2.0, 2.0))
    rank = np.searchsorted(names, label)
    perimeter = np.bincount(rank, weights=steps[code], minlength=len(names)).astype(np.float64)
    return perimeter, np.bincount(rank, weights=eighths, minlength=len(names)) / 8


# -- convex hull --------------------------------------------------------------------------------------------------


def solidity(runs: Runs) -> Numbers:
    """(n,) area of each cell over that of its convex hull; 1 is convex."""
    return areas(runs) / convex_areas(runs)


def convex_areas(runs: Runs) -> NDArray[np.int64]:
    """(n,) pixels whose centre lies in the convex hull of the middles of the cell's pixels' sides."""
    import cv2

    first = runs.first
    if not len(first):
        return np.zeros(0, np.int64)
    left, right, row = 2 * runs.start, 2 * (runs.end - 1), 2 * runs.row  # in half pixels, so that all are whole
    corners = ((left, row - 1), (left, row + 1), (right, row - 1), (right, row + 1), (left - 1, row), (right + 1, row))
    points = np.stack([np.stack(corner, 1) for corner in corners], 1).astype(np.int32)
    hulls = [cv2.convexHull(points[low:high].reshape(-1, 2))[:, 0] for low, high in pairwise([*first, len(points)])]
    begin = np.concatenate(hulls).astype(np.int64)
    corners_of = np.array([len(hull) for hull in hulls])
    after = np.arange(1, len(begin) + 1)
    after[np.cumsum(corners_of) - 1] -= corners_of  # the last corner of a hull is followed by its first
    return _pixels_inside(begin, begin[after], np.repeat(np.arange(len(hulls)), corners_of))


def _pixels_inside(begin: NDArray[np.int64], end: NDArray[np.int64], cell: NDArray[np.intp]) -> NDArray[np.int64]:
    """(e, 2) x and y in half pixels where the edges of hulls begin and end, (e,) whose hull -> (n,) pixels inside."""
    turn = np.sign(np.bincount(cell, begin[:, 0] * end[:, 1] - end[:, 0] * begin[:, 1])).astype(np.int64)
    low, high = -(-np.minimum(begin[:, 1], end[:, 1]) // 2), -(-np.maximum(begin[:, 1], end[:, 1]) // 2)
    edge = np.repeat(np.arange(len(begin)), high - low)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edge]
    (x0, y0), (x1, y1) = begin[edge].T, end[edge].T
    across, whole = x0 * (y1 - y0) + (x1 - x0) * (2 * line - y0), 2 * (y1 - y0)
    is_right = (y1 - y0) * turn[cell[edge]] > 0
    # a row of the hull runs from its left edge to its right one, and has as many pixels as whole numbers between them
    pixels = np.where(is_right, across // whole + 1, across // -whole)
    return np.bincount(cell[edge], pixels, len(turn)).astype(np.int64)
