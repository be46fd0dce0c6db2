"""Painters: what each promises, found by its registry line."""

from __future__ import annotations

import numpy as np
import pytest

from cellvision.core.errors import ConfigError
from cellvision.simulators import DEBRIS, PAINTERS, Painting

KINDS = tuple(PAINTERS.names())


def paint(name: str, seed: int = 0, contamination: float = 0.2, height: int = 224, width: int = 256) -> Painting:
    rng = np.random.default_rng(seed)
    return PAINTERS.build(name).paint(rng, height, width, contamination, KINDS)


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


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(2, 2), (2, 40), (40, 2), (7, 5), (17, 16)])
def test_an_image_smaller_than_a_cell_is_painted(name: str, shape: tuple[int, int]) -> None:
    painting = paint(name, 1, 0.2, *shape)
    assert painting.pixels.shape == (*shape, 3)
    assert painting.pixels.dtype == np.uint8
    assert painting.masks.shape == shape
    assert painting.masks.dtype == np.int32
    assert painting.masks.max() == len(painting.cells)


@pytest.mark.parametrize("name", KINDS)
def test_a_painter_alone_has_debris_for_contamination(name: str) -> None:
    painting = PAINTERS.build(name).paint(np.random.default_rng(2), 256, 256, 0.5, (name,))
    assert {cell["kind"] for cell in painting.cells} <= {name, DEBRIS}


def test_messages_call_a_painter_a_painter() -> None:
    with pytest.raises(ConfigError, match="no painter named 'rbd'; did you mean 'rbc'"):
        PAINTERS.load("rbd")
