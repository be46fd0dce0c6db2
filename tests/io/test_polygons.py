"""Polygons give back the pixels they were traced from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from outlines import RING

from cellvision.io import polygons

SHAPES: dict[str, NDArray[np.int_]] = {
    "one pixel": np.array([[7]]),
    "whole image": np.full((3, 5), 4),
    "hole": RING,
    "touching": np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 2]]),
    "corner to corner": np.array([[1, 0, 2], [0, 1, 0], [2, 0, 1]]),
    "hole at the corner of another": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
    "hole at the corner of the rim": np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]]),
    "several parts": np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]),
    "island in a hole": np.pad(np.pad(np.ones((1, 1), int), 1), 2, constant_values=1),
}


def painted(outlines: dict[int, list[polygons.Polygon]], shape: tuple[int, ...]) -> NDArray[np.int32]:
    labels = np.zeros(shape, np.int32)
    for name, parts in outlines.items():
        window, inside = polygons.fill([ring.astype(float) for part in parts for ring in part], (shape[0], shape[1]))
        assert not labels[window][inside].any(), "cells do not overlap"
        labels[window][inside] = name
    return labels


def twice_area(ring: NDArray) -> float:
    (x, y), (x1, y1) = ring[:-1].T, ring[1:].T
    return float((x * y1 - x1 * y).sum())


def check_valid(parts: list[polygons.Polygon], labels: NDArray, name: int) -> None:
    """What makes polygons valid for geometry libraries, as far as rings along pixel edges can fail to be."""
    for exterior, *holes in parts:
        assert twice_area(exterior) > 0, "an exterior runs counterclockwise"
        assert all(twice_area(hole) < 0 for hole in holes)
        for ring in (exterior, *holes):
            assert (ring[0] == ring[-1]).all(), "closed"
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring) - 1, "no corner twice"
            sides = np.diff(ring, axis=0)
            assert ((sides != 0).sum(1) == 1).all(), "along one axis at a time"
            assert ((sides[:, 0] != 0) != (np.roll(sides, 1, axis=0)[:, 0] != 0)).all(), "no corner that is none"
    assert sum(twice_area(ring) for part in parts for ring in part) == 2 * (labels == name).sum()


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_give_back_the_pixels(name: str) -> None:
    labels = SHAPES[name]
    outlines = polygons.trace(labels)
    np.testing.assert_array_equal(painted(outlines, labels.shape), labels)
    for cell, parts in outlines.items():
        check_valid(parts, labels, cell)


@pytest.mark.parametrize("seed", range(60))
def test_polygons_give_back_the_pixels_of_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(2, 6), rng.integers(1, 16, 2)) * int(rng.choice([1, 40_000]))
    outlines = polygons.trace(labels)
    assert sorted(outlines) == [name for name in np.unique(labels) if name]
    np.testing.assert_array_equal(painted(outlines, labels.shape), labels)
    for cell, parts in outlines.items():
        check_valid(parts, labels, cell)


def test_a_hole_belongs_to_its_part_and_parts_are_polygons_of_one_cell() -> None:
    labels = np.zeros((5, 11), int)
    labels[:, :5], labels[1:4, 1:4], labels[:, 6:], labels[2, 8] = 1, 0, 1, 0
    parts = sorted(polygons.trace(labels)[1], key=lambda part: part[0][:, 0].min())
    assert [len(part) for part in parts] == [2, 2]
    assert [part[1][:, 0].min() for part in parts] == [1, 8]


def test_an_empty_map_has_no_outline() -> None:
    assert polygons.trace(np.zeros((4, 4), int)) == {}


def test_a_pixel_is_inside_where_its_centre_is() -> None:
    triangle = np.array([[0.2, 0.2], [6.2, 0.2], [0.2, 6.2], [0.2, 0.2]])
    window, inside = polygons.fill([triangle], (5, 9))
    found = np.zeros((5, 9), bool)
    found[window] = inside
    y, x = np.mgrid[:5, :9] + 0.5
    np.testing.assert_array_equal(found, (x > 0.2) & (y > 0.2) & (x + y < 6.4))


def test_what_lies_outside_the_image_is_cut_off() -> None:
    square = np.array([[-3, -3], [2, -3], [2, 99], [-3, 99], [-3, -3]], float)
    window, inside = polygons.fill([square], (4, 6))
    assert inside.sum() == 2 * 4
    assert window == (slice(0, 4), slice(0, 2))
    assert not polygons.fill([square + 200], (4, 6))[1].any()
