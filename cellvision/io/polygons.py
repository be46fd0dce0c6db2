"""Cells as polygons along the edges of their pixels, and back: filling what `trace` gives returns the same pixels.

Coordinates are (x, y) in px with the origin at the outer corner of the first pixel, x to the right, y down; a pixel in
row r and column c is the square from (c, r) to (c + 1, r + 1). Rings are closed, exteriors run counterclockwise where y
points up (RFC 7946), and no ring passes a point twice, so that geometry libraries take the polygons for valid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellvision.io.components import parts_of

Ring = NDArray[np.float64]  # (n, 2) x and y, the last point is the first
Polygon = list[NDArray[np.int64]]  # rings of corners: the exterior, then the holes
MAX_CROSSINGS = 1 << 26  # of edges and rows of pixels in one shape


@dataclass(frozen=True)
class _Edges:
    """Directed unit edges of all parts, the part on their left where y points up; (m,) int64 each."""

    start: NDArray[np.int64]  # corner, row * (width + 1) + column
    end: NDArray[np.int64]
    part: NDArray[np.int64]
    pixel: NDArray[np.int64]  # the pixel of the part that the edge belongs to, row * width + column
    heading: NDArray[np.int64]  # 0 to 3


def trace(labels: NDArray[np.integer]) -> dict[int, list[Polygon]]:
    """(H, W) labels, 0 is nothing -> for every label its polygons, one for each part that hangs together by sides."""
    parts = parts_of(labels)
    edges = _edges_of(parts)
    rings = list(_rings(edges))
    if not rings:
        return {}
    order = np.concatenate(rings)
    bounds = np.cumsum([0, *map(len, rings)])
    corner = _corners(edges.heading[order], bounds)
    y, x = np.divmod(edges.start[order], labels.shape[1] + 1)
    polygons: dict[int, dict[int, Polygon]] = {}
    for first, stop in itertools.pairwise(bounds):
        inside = np.flatnonzero(corner[first:stop]) + first
        ring = np.stack([x[inside], y[inside]], 1)
        ring = np.concatenate([ring, ring[:1]])
        edge = order[first]
        polygon = polygons.setdefault(int(labels.flat[edges.pixel[edge]]), {}).setdefault(int(edges.part[edge]), [])
        polygon.insert(0 if _area(ring) > 0 else len(polygon), ring)
    return {name: list(polygons[name].values()) for name in sorted(polygons)}


def _edges_of(parts: NDArray[np.int64]) -> _Edges:
    height, width = parts.shape
    padded = np.zeros((height + 2, width + 2), parts.dtype)
    padded[1:-1, 1:-1] = parts
    sides = (  # neighbour, then where the edge starts and ends, rows and columns from the pixel's first corner
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (1, 0)),
        (padded[1:-1, :-2], (1, 0), (0, 0)),
    )
    columns: list[list[NDArray[np.int64]]] = []
    for heading, (neighbour, begin, finish) in enumerate(sides):
        row, column = np.nonzero((parts != 0) & (parts != neighbour))
        corners = [(row + dy) * (width + 1) + column + dx for dy, dx in (begin, finish)]
        columns.append(
            [*corners, parts[row, column].astype(np.int64), row * width + column, np.full(len(row), heading)]
        )
    return _Edges(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _rings(edges: _Edges) -> Iterator[list[int]]:
    """Edge numbers of each simple ring, in order."""
    parts = int(edges.part.max(initial=0)) + 1
    leaving, arriving = edges.start * parts + edges.part, edges.end * parts + edges.part
    order = np.argsort(leaving, kind="stable")
    sorted_keys = leaving[order]
    place = np.searchsorted(sorted_keys, arriving)
    following = order[place]
    # where two pixels of a part meet only at a corner, two edges leave it: a ring first stays with its own pixel
    after = np.minimum(place + 1, len(order) - 1)
    crossing = (place + 1 < len(order)) & (sorted_keys[after] == arriving)
    other = crossing & (edges.pixel[order[after]] == edges.pixel)
    following[other] = order[after[other]]
    crossings, start = set(np.flatnonzero(crossing).tolist()), edges.start.tolist()
    step, seen = following.tolist(), bytearray(len(following))
    for first in range(len(step)):
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            ring.append(edge)
            edge = step[edge]
        yield from _simple(ring, start) if crossings and not crossings.isdisjoint(ring) else (ring,)


def _simple(ring: list[int], start: list[int]) -> Iterator[list[int]]:
    """A ring that passes a corner twice -> rings that do not."""
    path: list[int] = []
    at: dict[int, int] = {}
    for edge in ring:
        corner = start[edge]
        if corner in at:
            closed = path[at[corner] :]
            yield closed
            del path[at[corner] :]
            for passed in closed:
                del at[start[passed]]
        at[corner] = len(path)
        path.append(edge)
    yield path


def _corners(heading: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(m,) headings of rings one after the other -> where an edge turns away from the one before it."""
    before = np.roll(heading, 1)
    before[bounds[:-1]] = heading[bounds[1:] - 1]
    return heading != before


def _area(ring: NDArray[np.int64]) -> float:
    """Twice the signed area; positive where the ring runs counterclockwise with y upwards."""
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def fill(rings: Sequence[Ring], shape: tuple[int, int]) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Rings of one shape, holes among them -> a window of the (H, W) image and which of its pixels are inside.

    A pixel is inside when its centre is, by the even-odd rule; what lies outside the image is cut off. ValueError for a
    shape with more than MAX_CROSSINGS crossings.
    """
    height, width = shape
    begin = np.concatenate([ring[:-1] for ring in rings])
    finish = np.concatenate([ring[1:] for ring in rings])
    limits = np.sort(np.stack([begin[:, 1], finish[:, 1]]), axis=0)
    first, stop = (np.clip(np.ceil(side - 0.5), 0, height).astype(np.int64) for side in limits)
    count = np.maximum(stop - first, 0)
    if count.sum() > MAX_CROSSINGS:
        raise ValueError(f"an outline of {len(begin)} edges crosses {count.sum()} rows of pixels")
    edge = np.repeat(np.arange(len(begin)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (finish[edge, 0] - begin[edge, 0]) / (finish[edge, 1] - begin[edge, 1])
    x = begin[edge, 0] + (row + 0.5 - begin[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    if not len(row):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    top, left, bottom, right = int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max())
    across = right - left + 1
    toggles = np.bincount((row - top) * across + column - left, minlength=(bottom - top) * across)
    inside = toggles.reshape(bottom - top, across).cumsum(1) % 2 == 1
    return (slice(top, bottom), slice(left, right)), inside[:, :-1]


def holds(rings: Sequence[Ring], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Rings of one shape and (n, 2) points x, y -> (n,) which of them lie inside, by the even-odd rule."""
    inside = np.zeros(len(points), bool)
    x, y = points.T
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True):
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside
