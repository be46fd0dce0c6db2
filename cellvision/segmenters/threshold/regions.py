"""Connected regions of masks and labels: their boxes, sizes and outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import shapes
from cellvision.cells.quality import noise_of
from cellvision.io.components import Connectivity, measured_components

Mask = NDArray[np.bool_]  # (H, W)
Labels = NDArray[np.int32]  # (H, W), 0 = background

AREA = 4  # column of `measured_components`
FEWEST = 5  # px, below this a region has no form
RIM = 4  # px at least around a cell that its contrast is measured against
LEAST_NOISE = 0.5  # grey levels, what 8 bits leave
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
        """Area over the area of the convex hull, holes filled; about 1 for a disc."""
        return solidity_of(self.mask)

    @property
    def roundness(self) -> float:
        """Minor over major axis of the ellipse with the same second moments."""
        if self.area < FEWEST:
            return 1.0
        ellipse = shapes.ellipses(shapes.runs_of(self.mask.astype(np.uint8)))
        return float(ellipse.minor[0] / ellipse.major[0])


def solidity_of(mask: Mask) -> float:
    """Area over the area of the convex hull (`shapes.solidity`), holes filled."""
    return float(shapes.solidity(shapes.runs_of(without_holes(mask)))[0])


def without_holes(mask: Mask) -> NDArray[np.uint8]:
    """(h, w) -> (h, w), 1 in the mask and in what it encloses."""
    import cv2

    filled = mask.astype(np.uint8)
    contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(filled, contours, -1, 1, thickness=cv2.FILLED), np.uint8)


def regions(mask: Mask, connectivity: Connectivity = 8) -> list[Region]:
    """Connected components, largest boxes included, in raster order."""
    labels, boxes = measured_components(mask, connectivity)
    rows = []
    for label, (x, y, width, height, area) in enumerate(boxes[1:].tolist(), start=1):
        rows.append(Region(y, x, y + height, x + width, area, labels[y : y + height, x : x + width] == label))
    return rows


def drop_specks(labels: Labels, smallest_px: float) -> Labels:
    """Only the largest connected piece of each label is kept, and only if it reaches `smallest_px`."""
    from scipy import ndimage

    kept = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, boxes = measured_components(labels[box] == label, 4)
        largest = 1 + int(np.argmax(boxes[1:, AREA]))
        if boxes[largest, AREA] >= max(smallest_px, area_of(MIN_DIAMETER)):
            kept[box][pieces == largest] = label
    return kept


def contrasts(labels: Labels, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Per cell: `contrast`, how far its mean is from that of the background around it, in the channel's noise.

    (H, W), (H, W, C) uint8, of the channel where it is farthest. Made of whole numbers: the same on every processor.
    """
    runs = shapes.runs_of(labels)
    boxes, area = shapes.boxes(runs), shapes.areas(runs)
    rim = np.maximum(RIM, (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) // 2)[:, None]
    boxes = np.concatenate([np.maximum(boxes[:, :2] - rim, 0), np.minimum(boxes[:, 2:] + rim, labels.shape)], 1)
    outside = labels == 0
    around = np.maximum(_within(outside, boxes), 1)
    farthest = np.zeros(len(area))
    for channel in np.moveaxis(pixels, 2, 0):
        inside = np.bincount(labels.ravel(), weights=channel.ravel(), minlength=len(area) + 1)[1:]
        difference = np.abs(inside / area - _within(channel * outside, boxes) / around)
        farthest = np.maximum(farthest, difference / max(noise_of(channel), LEAST_NOISE))
    return {"contrast": farthest.astype(np.float32)}


def _within(plane: NDArray[Any], boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(H, W) whole numbers, (n, 4) y0, x0, y1, x1 -> (n,) their sums in each box."""
    sums = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.int64)
    sums[1:, 1:] = plane.astype(np.int64).cumsum(0).cumsum(1)
    top, left, bottom, right = boxes.T
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
