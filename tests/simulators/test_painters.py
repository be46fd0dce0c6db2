"""Painters: the truth agrees with the masks, bits follow the generator, contamination and shortcuts as announced."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from cellvision.simulators import PAINTERS, Painting, Shortcut, add_shortcut

KINDS = tuple(PAINTERS.names())
SHORTCUTS = get_args(Shortcut)


def paint(name: str, seed: int = 0, contamination: float = 0.2, height: int = 224, width: int = 256) -> Painting:
    rng = np.random.default_rng(seed)
    return PAINTERS.build(name).paint(rng, height, width, contamination, KINDS)


def areas(painting: Painting, kind: str) -> np.ndarray:
    """Areas in px of the whole cells of `kind`."""
    return np.array([c["area_px"] for c in painting.cells if c["kind"] == kind and not c["touches_border"]])


def test_neurons_are_bright_on_black() -> None:
    for seed in range(4):
        painting = paint("neuron", seed, 0.0, 400, 400)
        light = painting.pixels.max(axis=2)
        assert np.median(light[painting.masks == 0]) < 64
        assert light[painting.masks > 0].mean() > 1.5 * light[painting.masks == 0].mean()


def test_red_cells_are_darker_than_their_background_and_38_px_wide() -> None:
    for seed in range(4):
        painting = paint("rbc", seed, 0.0, 400, 400)
        grey = painting.pixels.mean(axis=2)
        assert grey[painting.masks == 0].mean() > grey[painting.masks > 0].mean() + 8
        assert 33 < np.median(np.sqrt(4 / np.pi * areas(painting, "rbc"))) < 43


@pytest.mark.parametrize("name", ["xylem", "phloem"])
def test_walls_are_darker_than_cells(name: str) -> None:
    for seed in range(4):
        painting = paint(name, seed, 0.0)
        grey = painting.pixels.mean(axis=2)
        assert grey[painting.masks == 0].mean() < grey[painting.masks > 0].mean() - 8


def test_vessels_vary_more_in_size_than_sieve_tubes_and_are_larger() -> None:
    vessels = np.concatenate([areas(paint("xylem", seed, 0.0, 512, 512), "xylem") for seed in range(2)])
    tubes = np.concatenate([areas(paint("phloem", seed, 0.0, 512, 512), "phloem") for seed in range(2)])
    assert np.std(np.sqrt(vessels)) > 1.3 * np.std(np.sqrt(tubes))
    assert np.percentile(vessels, 95) > 1.7 * np.percentile(tubes, 95)


def test_mean_colour_overlaps_between_the_tissues() -> None:
    colour = {
        name: np.array([paint(name, seed, 0.0, 128, 128).pixels.mean(axis=(0, 1)) for seed in range(24)])
        for name in ("xylem", "phloem")
    }
    apart = np.abs(colour["xylem"].mean(axis=0) - colour["phloem"].mean(axis=0))
    assert (apart < np.concatenate(list(colour.values())).std(axis=0)).all()


@pytest.mark.parametrize("kind", SHORTCUTS)
@pytest.mark.parametrize("name", ["neuron", "rbc"])
def test_shortcuts_leave_the_truth_alone_and_tell_groups_apart(name: str, kind: Shortcut) -> None:
    painting = paint(name)
    before = painting.pixels.copy()
    marked = [add_shortcut(painting, kind, group) for group in range(5)]
    assert np.array_equal(painting.pixels, before)
    for one in marked:
        assert np.array_equal(one.masks, painting.masks)
        assert one.cells == painting.cells
        assert one.pixels.dtype == np.uint8
    assert len({one.pixels.tobytes() for one in marked} | {before.tobytes()}) == 6


@pytest.mark.parametrize("kind", ["scalebar", "caption"])
def test_burnt_in_marks_stay_in_their_corner(kind: Shortcut) -> None:
    painting = paint("rbc", height=400, width=400)
    for group in range(5):
        changed = (add_shortcut(painting, kind, group).pixels != painting.pixels).any(axis=2)
        y, x = np.nonzero(changed)
        assert y.min() >= 360 if group // 2 % 2 == 0 else y.max() < 40
        assert x.max() < 200 if group % 2 else x.min() >= 200
        assert changed.mean() < 0.01


def test_a_cast_is_one_colour_everywhere() -> None:
    flat = Painting(np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.int32), [])
    cast = add_shortcut(flat, "cast", 2).pixels
    assert len(np.unique(cast.reshape(-1, 3), axis=0)) == 1
    assert np.abs(cast.astype(int) - 100).max() <= 26
    assert np.ptp(cast[0, 0].astype(int)) > 10
