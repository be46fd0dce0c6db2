"""Watershed: flood from every peak, then take back the divisions that nothing supports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellvision.io.components import components
from cellvision.segmenters.threshold.regions import Labels, Mask, area_of

Plane = NDArray[np.float32]  # (H, W)

NECK_AT = (0.8, 1.1, 1.4)  # area of two touching parts, in typical cells
NECK = (0.8, 0.9, 0.98)  # ... and the width of their neck, over that of the narrower part, from which they are one cell
PROCESS = 0.4  # thickness of a process over that of its cell, at most


def split(depth: Plane, mask: Mask, diameter: float) -> Labels:
    """Divide touching cells where the mask has a neck; parts too small to be cells go back to their neighbour."""
    basins, peaks = flood(depth, mask, reach=max(1, round(0.1 * diameter)))
    area = np.bincount(basins.ravel(), minlength=len(peaks)).astype(np.float64)
    owner = Owner(peaks, area)
    for saddle, a, b in passes(depth, basins):
        a, b = owner.find(a), owner.find(b)
        if a == b:
            continue
        lower = min(owner.peak[a], owner.peak[b])
        together = owner.area[a] + owner.area[b]
        sliver = lower < 0.2 * diameter or min(owner.area[a], owner.area[b]) < 0.12 * area_of(diameter)
        neck = float(np.interp(together / area_of(diameter), NECK_AT, NECK))
        process = is_process(saddle, lower, max(owner.peak[a], owner.peak[b]))
        if saddle > neck * lower or (sliver and saddle > 0.5 * lower) or process:
            owner.join(a, b)
    return owner.apply(basins)


def is_process(saddle: float, thin: float, thick: float) -> bool:
    """Does the one hang on the other like a process on its soma: much thinner, and not cut off at the root?"""
    return thin < PROCESS * thick and saddle > 0.4 * thin


def flood(height: Plane, mask: Mask, reach: int) -> tuple[Labels, NDArray[np.float64]]:
    """Watershed from every local maximum within `reach` px -> basins 1..n and the height of each peak (index 0: 0)."""
    import cv2
    from skimage.segmentation import watershed

    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    seeds = components((height >= cv2.dilate(height, window)) & mask, 8)
    basins = watershed(-height, seeds, mask=mask).astype(np.int32)
    peaks = np.zeros(int(seeds.max(initial=0)) + 1)
    np.maximum.at(peaks, seeds.astype(np.int64).ravel(), height.ravel())
    peaks[0] = 0
    return basins, peaks


def passes(height: Plane, basins: Labels) -> list[tuple[float, int, int]]:
    """(saddle, a, b) of all touching basins, highest first; the saddle is the highest way from one to the other."""
    count = int(basins.max()) + 1
    keys, values = [], []
    below, right = np.s_[1:, :], np.s_[:, 1:]
    for here, there in ((below, np.s_[:-1, :]), (right, np.s_[:, :-1])):
        a, b = basins[here], basins[there]
        touch = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[touch], b[touch]).astype(np.int64), np.maximum(a[touch], b[touch]).astype(np.int64)
        keys.append(low * count + high)
        values.append(np.minimum(height[here][touch], height[there][touch]))
    pairs, index = np.unique(np.concatenate(keys), return_inverse=True)
    saddle = np.full(len(pairs), -np.inf)
    np.maximum.at(saddle, index, np.concatenate(values))
    order = np.argsort(-saddle, kind="stable")
    return [(float(saddle[i]), int(pairs[i] // count), int(pairs[i] % count)) for i in order]


class Owner:
    """Union-find over basins that keeps the peak and the area of what was joined."""

    def __init__(self, peak: NDArray[np.float64], area: NDArray[np.float64]) -> None:
        self.parent = list(range(len(peak)))
        self.peak, self.area = peak.copy(), area.copy()

    def find(self, basin: int) -> int:
        while self.parent[basin] != basin:
            self.parent[basin] = self.parent[self.parent[basin]]
            basin = self.parent[basin]
        return basin

    def join(self, a: int, b: int) -> None:
        self.parent[b] = a
        self.peak[a] = max(self.peak[a], self.peak[b])
        self.area[a] += self.area[b]

    def apply(self, basins: Labels) -> Labels:
        return np.array([self.find(basin) for basin in range(len(self.parent))], np.int32)[basins]
