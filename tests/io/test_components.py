"""Connected components: the same labels as the libraries give, whichever room asks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cellvision.io.components import Connectivity, components, measured_components, parts_of


@pytest.mark.parametrize(("connectivity", "corners"), [(4, 1), (8, 2)])
def test_pixels_are_together_as_scipy_says(connectivity: Connectivity, corners: int) -> None:
    mask = np.random.default_rng(connectivity).random((31, 40)) < 0.45
    labels = components(mask, connectivity)
    expected, count = ndimage.label(mask, ndimage.generate_binary_structure(2, corners))
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == count + 1 == labels.max() + 1
    same, boxes = measured_components(mask, connectivity)
    assert (same == labels).all()
    assert boxes[1:, 4].tolist() == np.bincount(labels.ravel())[1:].tolist()
    for label, (x, y, width, height, _) in enumerate(boxes[1:].tolist(), 1):
        inside = ndimage.find_objects(labels)[label - 1]
        assert inside == (slice(y, y + height), slice(x, x + width))


def test_parts_of_two_labels_stay_apart_and_corners_do_not_join() -> None:
    labels = np.array([[5, 5, 2], [0, 2, 2], [5, 0, 0]])
    parts = parts_of(labels)
    assert parts.tolist() == [[1, 1, 2], [0, 2, 2], [3, 0, 0]]


def test_nothing_has_no_component() -> None:
    assert not components(np.zeros((4, 5), bool), 8).any()
    assert len(measured_components(np.zeros((4, 5), bool), 4)[1]) == 1
