"""Connected regions of masks and labels: their boxes, sizes and outlines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]  # (H, W)
Labels = NDArray[np.int32]  # (H, W), 0 = background

MIN_DIAMETER = 5.0  # px, below this a blob cannot be told from noise


def area_of(diameter: float) -> float:
    return float(np.pi / 4 * diameter**2)


@dataclass(frozen=True)
class Region:
    """A connected component: its box, its mask within the box, and what its outline says."""

    y0: int
    x0: int
    y1: int
    x1: int
    area: int
    mask: Mask

    @property
    def box(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def solidity(self) -> float:
        """Area over the area of the convex hull, holes not counted; 1 for a disc."""
        return solidity_of(self.mask)

    @property
    def roundness(self) -> float:
        """Minor over major axis of the ellipse with the same second moments."""
        y, x = np.nonzero(self.mask)
        if len(y) < 5:
            return 1.0
        low, high = np.linalg.eigvalsh(np.cov(np.stack([y, x])) + np.eye(2) / 12)
        return float(np.sqrt(max(low, 0) / high))


def solidity_of(mask: Mask) -> float:
    import cv2

    contours, _ = cv2.findContours(np.pad(mask, 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours)
    hull = cv2.convexHull(points)
    # contours run through pixel centres: half the outline and 1 are the rim that is missing
    full = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1
    own = sum(cv2.contourArea(contour) + cv2.arcLength(contour, True) / 2 for contour in contours) + 1
    return float(min(own / full, 1.0))


def regions(mask: Mask, connectivity: int = 8) -> list[Region]:
    """Connected components, largest boxes included, in raster order."""
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        found.append(Region(y, x, y + height, x + width, area, labels[y : y + height, x : x + width] == label))
    return found


def drop_specks(labels: Labels, smallest_px: float) -> Labels:
    """Only the largest connected piece of each label is kept, and only if it reaches `smallest_px`."""
    import cv2
    from scipy import ndimage

    kept = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        own = (labels[box] == label).astype(np.uint8)
        count, pieces, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=4)
        largest = 1 + int(np.argmax(stats[1:, 4])) if count > 1 else 0
        if largest and stats[largest, 4] >= max(smallest_px, area_of(MIN_DIAMETER)):
            kept[box][pieces == largest] = label
    return kept
