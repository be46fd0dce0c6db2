"""Shapes: every measurement is scikit-image's, for any shape, any labels and anywhere in the image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from skimage.measure import regionprops

from cellvision.branches.image import handmade
from cellvision.cells import cellprofiler, crop, quality, shapes
from cellvision.segmenters.threshold import regions


def drawn(*rows: str) -> NDArray[np.int32]:
    """Rows of digits, a space being background -> labels."""
    return np.array([[int(digit) if digit != " " else 0 for digit in row] for row in rows], np.int32)


ODD = {
    "one pixel": drawn("     ", "  7  ", "     "),
    "one pixel that is the image": drawn("3"),
    "line": drawn("          ", " 55555555 ", "          "),
    "standing line": drawn("2 ", "2 ", "2 ", "2 "),
    "diagonal": np.diag(np.full(6, 4)).astype(np.int32),
    "ring": drawn("111111", "1    1", "1 22 1", "1    1", "111111"),
    "touching corners": drawn("11  ", "11  ", "  22", "  22"),
    "parts that touch at a corner": drawn("33   ", "33   ", "  33 ", "  33 "),
    "two parts": drawn("8    8", "88    ", "      ", "  8888"),
    "touching sides": drawn("1122", "1122", "3344", "3344"),
    "at every border": drawn("1 222", "1   2", "    2", "33  2", "3    "),
    "whole image": np.full((5, 9), 2, np.int32),
    "gaps in the labels": drawn("2   9", "2   9", "    9", "77777"),
    "nothing": np.zeros((4, 6), np.int32),
}


def random_labels(seed: int) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 5, (23, 37)) * 9 * (rng.random((23, 37)) < 0.8)
    smooth = np.kron(rng.integers(0, 6, (7, 6)), np.ones((5, 7), int))
    return np.asarray(rough if seed % 2 else smooth, np.int32)


@pytest.mark.parametrize(
    "labels", [*ODD.values(), *map(random_labels, range(8))], ids=[*ODD, *(f"random {seed}" for seed in range(8))]
)
def test_every_measurement_is_that_of_scikit_image(labels: NDArray[np.int32]) -> None:
    known = regionprops(labels)
    runs = shapes.runs_of(labels)
    assert runs.names.tolist() == [region.label for region in known]
    assert shapes.areas(runs).tolist() == [region.area for region in known]
    assert shapes.convex_areas(runs).tolist() == [region.area_convex for region in known]
    assert shapes.boxes(runs).tolist() == [list(region.bbox) for region in known]
    ellipses, (perimeter, euler) = shapes.ellipses(runs), shapes.outlines(labels, runs.names)
    assert euler.tolist() == [region.euler_number for region in known]
    same = pytest.approx
    assert shapes.solidity(runs).tolist() == same([region.solidity for region in known])
    assert perimeter.tolist() == same([region.perimeter for region in known])
    centres = np.reshape([region.centroid for region in known], (-1, 2)).T
    assert np.stack(shapes.centres(runs)) == same(centres)
    assert np.stack([ellipses.y, ellipses.x]) == same(centres)
    assert ellipses.major.tolist() == same([region.axis_major_length for region in known], abs=1e-6)
    assert ellipses.minor.tolist() == same([region.axis_minor_length for region in known], abs=1e-6)
    assert ellipses.eccentricity.tolist() == same([region.eccentricity for region in known], abs=1e-6)
    turn = ellipses.orientation - [region.orientation for region in known]
    assert (np.sin(turn) * (ellipses.eccentricity > 0.1)).tolist() == same(np.zeros(len(known)), abs=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_the_type_of_the_labels_changes_nothing(dtype: type) -> None:
    labels = random_labels(0)
    assert (shapes.solidity(shapes.runs_of(labels.astype(dtype))) == shapes.solidity(shapes.runs_of(labels))).all()


def test_masks_of_crops_are_measured_as_each_alone() -> None:
    masks = np.random.default_rng(3).random((5, 12, 12)) < 0.5
    labels, runs = shapes.stacked(masks)
    for number, mask in enumerate(masks):
        alone = shapes.runs_of(mask.astype(np.int32))
        assert shapes.solidity(runs)[number] == shapes.solidity(alone)[0]
        assert shapes.ellipses(runs).orientation[number] == shapes.ellipses(alone).orientation[0]
        assert shapes.boxes(runs)[number].tolist() == shapes.boxes(alone)[0].tolist()
        together, single = (
            shapes.outlines(some, names) for some, names in ((labels, runs.names), (mask.astype(np.int32), alone.names))
        )
        assert [both[number] for both in together] == [one[0] for one in single]


def test_a_cell_has_one_solidity() -> None:
    labels = random_labels(4)
    cells, _ = quality.describe(labels, np.zeros((*labels.shape, 1), np.uint8), {})
    exported = cellprofiler.shape_and_place(labels)["AreaShape_Solidity"]
    assert cells["solidity"].tolist() == exported.astype(np.float32).tolist()
    crops = crop.cut(np.zeros((*labels.shape, 3), np.uint8), labels, cells.assign(scale=1.0), 64)
    features = handmade.shape(crops)[:, handmade.NAMES["shape"].index("solidity")]
    assert features.tolist() == cells["solidity"].tolist()


def test_the_threshold_segmenter_measures_solidity_alike_but_fills_holes() -> None:
    rng = np.random.default_rng(2)
    for mask in (rng.random((9, 14)) < 0.6, rng.random((20, 20)) < 0.5, np.eye(7) > 0, np.ones((1, 1), bool)):
        full = binary_fill_holes(mask)
        assert regions.solidity_of(mask) == pytest.approx(regionprops(full.astype(int))[0].solidity)
