"""Connected components: the one place where what hangs together gets a number, pixels or anything with links."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Connectivity = Literal[4, 8]  # pixels meet at sides only, or at corners too


def components(mask: NDArray[np.bool_], connectivity: Connectivity) -> NDArray[np.int32]:
    """(H, W) -> (H, W) labels 1..n of its connected components, 0 outside."""
    import cv2

    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[1], np.int32)


def measured_components(
    mask: NDArray[np.bool_], connectivity: Connectivity
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The same, and (n + 1, 5) x0, y0, width, height and area in px of each label, the background first."""
    import cv2

    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    return np.asarray(labels, np.int32), np.asarray(boxes, np.int32)


def linked(first: NDArray[np.integer], second: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """(m,), (m,) both ends of each link between 0..count-1 -> (count,) number of the component that each is in."""
    from scipy import sparse

    graph = sparse.coo_matrix((np.ones(len(first), np.int8), (first, second)), (count, count))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], np.int64)


def parts_of(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """(H, W) labels -> (H, W) numbers 1..m of their parts, pixels of one label that hang together by sides."""
    from skimage.measure import label

    return np.asarray(label(labels, connectivity=1, background=0), np.int64)
