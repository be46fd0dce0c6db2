"""Geometry of a tissue section: which cells there are, where they lie, and how far inside its cell each pixel is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellvision.simulators.canvas import draw_kinds, scatter, smooth_noise

TISSUES = ("phloem", "xylem")
MARGIN = 45.0  # px of tissue laid out beyond the border, so that the border cuts cells


@dataclass(frozen=True, eq=False)
class Layout:
    """Cells of the tissue before anything is drawn; arrays of length n, lengths in px."""

    kind: np.ndarray
    place: np.ndarray  # (n, 2) y, x
    radius: np.ndarray
    wall: np.ndarray  # thickness of the cell's own half of a wall
    content: np.ndarray  # stain of the lumen relative to that of a wall
    woody: np.ndarray  # bool: walls of the xylem's kind
    small: np.ndarray  # bool: parenchyma in xylem, companion cells in phloem


def lay_out(
    rng: np.random.Generator,
    shape: tuple[int, int],
    own: str,
    scale: float,
    contamination: float,
    kinds: tuple[str, ...],
) -> Layout:
    """Draw cells until their discs could cover the plane; pack them."""
    area = (shape[0] + 2 * MARGIN) * (shape[1] + 2 * MARGIN)
    most = int(area / (np.pi * (9 * scale) ** 2)) + 8  # as if all were small
    kind = draw_kinds(rng, most, own, contamination, kinds)
    woody = np.where(np.isin(kind, TISSUES), kind, own) == "xylem"  # a foreign body sits in a cell of the host tissue
    small = np.isin(kind, TISSUES) & (rng.random(most) < np.where(woody, 0.22, 0.4))
    large = np.where(kind == "xylem", np.clip(rng.lognormal(np.log(21), 0.45, most), 11, 44), rng.uniform(15, 23, most))
    radius = scale * np.where(small, rng.uniform(8.5, 11.5, most), large)
    n = int(np.searchsorted(np.cumsum(np.pi * radius**2), 1.03 * area)) + 1
    order = np.argsort(np.where(small, 0, -radius)[:n], kind="stable")  # large cells take their places first
    n, kind, radius, woody, small = len(order), kind[order], radius[order], woody[order], small[order]
    lignin, nacre = rng.uniform(0.65, 1.15), rng.uniform(0.8, 1.9)  # plants differ in both kinds of wall
    wall = np.where(woody, lignin * (2.4 + 0.055 * radius), nacre * 0.9) * rng.uniform(0.75, 1.3, n)
    content = np.where(woody, 0.5 * rng.beta(0.5, 3.0, n), rng.uniform(0.05, 0.3, n)) + np.where(small, 0.12, 0.0)
    return Layout(kind, _pack(rng, shape, radius, small & ~woody), radius, wall, content, woody, small)


def _pack(rng: np.random.Generator, shape: tuple[int, int], radius: np.ndarray, companion: np.ndarray) -> np.ndarray:
    """(n, 2) y, x: discs scattered evenly, companions at the rim of some large cell, then all pushed apart."""
    place = scatter(rng, radius, *shape, MARGIN)
    hosts = np.flatnonzero(radius > 1.3 * radius.min())
    if len(hosts):
        host, angle = rng.choice(hosts, companion.sum()), rng.uniform(0, 2 * np.pi, companion.sum())
        place[companion] = place[host] + radius[host, None] * np.stack([np.sin(angle), np.cos(angle)], 1)
    return push_apart(place, radius)


def push_apart(place: np.ndarray, radius: np.ndarray, rounds: int = 40) -> np.ndarray:
    """(n, 2) y, x and (n,) radii, px -> (n, 2), moved in place: overlapping discs part, the small one further."""
    n, reach = len(radius), radius[:, None] + radius[None]
    distance = np.linalg.norm(place[:, None] - place[None], axis=2)
    i, j = np.nonzero(np.triu(distance < reach + 25, k=1))  # pairs that may meet
    share = (radius[j] / reach[i, j])[:, None]
    for _ in range(rounds):
        offset = place[i] - place[j]
        gap = np.linalg.norm(offset, axis=1) + 1e-6
        push = 0.6 * offset * (np.clip(reach[i, j] - gap, 0, None) / gap)[:, None]
        for axis in (0, 1):
            away = np.bincount(i, (share * push)[:, axis], n) - np.bincount(j, ((1 - share) * push)[:, axis], n)
            place[:, axis] += away
    return place


def partition(rng: np.random.Generator, cells: Layout, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) index of the cell a pixel belongs to, and its depth in px inwards from the middle of the wall.

    Additively weighted (Apollonius) Voronoi cells of slightly elliptic discs: large cells bulge into small ones. Depth
    is negative in the spaces between cells.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y += 2.0 * smooth_noise(rng, (height, width), 45)  # real walls are never quite straight
    x += 2.0 * smooth_noise(rng, (height, width), 45)
    first, second = np.full((2, height, width), 99.0, np.float32)  # px to the nearest disc and to the next
    nearest = np.zeros((height, width), np.int32)
    n = len(cells.radius)
    stretch, tilt = np.exp(rng.normal(0, 0.06, n) * np.where(cells.woody, 1, 1.8)), rng.uniform(0, np.pi, n)
    for i in range(n):
        cy, cx = cells.place[i]
        reach = int(cells.radius[i] * 1.3) + 24
        rows, columns = (slice(max(int(c) - reach, 0), max(int(c) + reach, 0)) for c in (cy, cx))
        dy, dx = y[rows, columns] - cy, x[rows, columns] - cx
        along, across = dy * np.sin(tilt[i]) + dx * np.cos(tilt[i]), dy * np.cos(tilt[i]) - dx * np.sin(tilt[i])
        gap = np.hypot(along * stretch[i], across / stretch[i]) - cells.radius[i]
        before = first[rows, columns]
        second[rows, columns] = np.minimum(second[rows, columns], np.maximum(before, gap))
        nearest[rows, columns] = np.where(gap < before, i, nearest[rows, columns])
        first[rows, columns] = np.minimum(before, gap)
    to_wall = (second - first) / 2
    to_space = np.where(cells.woody, 2.0, 3.5)[nearest] - first  # how far a cell may swell into empty corners
    return nearest, _smooth_minimum(to_wall, to_space, 2.5).astype(np.float32)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
    """The lesser of two, rounded where they are nearly equal (Quilez's polynomial form)."""
    mixed = np.clip(width - np.abs(a - b), 0, None) / width
    return np.minimum(a, b) - mixed**2 * width / 4
