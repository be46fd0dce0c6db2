"""Painters: the truth agrees with the masks, bits follow the generator, contamination and shortcuts as announced."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from cellvision.simulators import DEBRIS, PAINTERS, Painting, Shortcut, add_shortcut

KINDS = tuple(PAINTERS.names())
SHORTCUTS = get_args(Shortcut)


def paint(name: str, seed: int = 0, contamination: float = 0.2, height: int = 224, width: int = 256) -> Painting:
    rng = np.random.default_rng(seed)
    return PAINTERS.build(name).paint(rng, height, width, contamination, KINDS)


def areas(painting: Painting, kind: str) -> np.ndarray:
    """Areas in px of the whole cells of `kind`."""
    return np.array([c["area_px"] for c in painting.cells if c["kind"] == kind and not c["touches_border"]])


@pytest.mark.parametrize("name", KINDS)
def test_table_equals_the_masks(name: str) -> None:
    from skimage.measure import regionprops

    painting = paint(name)
    assert painting.pixels.shape == (224, 256, 3)
    assert painting.pixels.dtype == np.uint8
    assert painting.masks.shape == (224, 256)
    assert painting.masks.dtype == np.int32
    regions = regionprops(painting.masks)
    assert [r.label for r in regions] == [c["label"] for c in painting.cells] == list(range(1, len(regions) + 1))
    for region, cell in zip(regions, painting.cells, strict=True):
        top, left, bottom, right = region.bbox
        assert cell["area_px"] == region.area
        assert (cell["y"], cell["x"]) == pytest.approx(region.centroid)
        assert cell["touches_border"] == (top == 0 or left == 0 or bottom == 224 or right == 256)
        assert cell["kind"] in (*KINDS, DEBRIS)


@pytest.mark.parametrize("name", KINDS)
def test_same_generator_gives_the_same_bits(name: str) -> None:
    first, again, other = paint(name, seed=3), paint(name, seed=3), paint(name, seed=4)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.masks, again.masks)
    assert first.cells == again.cells
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("name", KINDS)
def test_painting_leaves_the_global_random_state_alone(name: str) -> None:
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    paint(name)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])


@pytest.mark.parametrize("name", KINDS)
def test_contamination_is_the_share_of_foreign_cells(name: str) -> None:
    size = 640 if name == "neuron" else 256  # neurons are few
    assert {c["kind"] for c in paint(name, 0, 0.0).cells} == {name}
    found = [c["kind"] for seed in range(8) for c in paint(name, seed, 0.4, size, size).cells]
    share = np.mean([kind != name for kind in found])
    assert abs(share - 0.4) < 4 * np.sqrt(0.24 / len(found)) + 0.03
    assert set(found) == {*KINDS, DEBRIS}


@pytest.mark.parametrize("name", KINDS)
def test_contaminants_come_from_the_kinds_allowed(name: str) -> None:
    rng = np.random.default_rng(0)
    painting = PAINTERS.build(name).paint(rng, 256, 256, 1.0, (name, "rbc"))
    assert {c["kind"] for c in painting.cells} <= {"rbc", DEBRIS}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(64, 96), (333, 150)])
def test_odd_sizes_are_painted(name: str, shape: tuple[int, int]) -> None:
    painting = paint(name, 1, 0.2, *shape)
    assert painting.pixels.shape == (*shape, 3)
    assert len(painting.cells) > 0


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
