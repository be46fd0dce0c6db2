"""Segmenter without weights: uint8 image in, one mask per cell out, by illumination, threshold, topology and watershed.

It decides per image what it looks at: cells darker or brighter than a smooth background, cells that are only rougher
than it, or tissue of thin walls whose cells are the lumina. Everything is relative to the image's own contrast and cell
diameter, so an inverted image gives the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.config import PluginConfig, option
from cellvision.segmenters import Segmentation, Segmenter, in_raster_order
from cellvision.segmenters.threshold.basins import Owner, Plane, flood, is_process, passes, split
from cellvision.segmenters.threshold.regions import (
    MIN_DIAMETER,
    Labels,
    Mask,
    Region,
    area_of,
    contrasts,
    drop_specks,
    regions,
    solidity_of,
    without_holes,
)

REVISION = "2"  # raised when masks change
MIN_SIDE = 8  # px, a smaller image holds no cell
MIN_CONTRAST = 3.6  # signal of cells over background, in standard deviations of the background
MIN_ROUGHER = 1.35  # local standard deviation of cells over that of the background
WALL_BLUR = 0.03  # typical diameters, smoothing of the wall signal
WALL_HEIGHT = 0.5  # of the typical wall nearby: a lower crest divides nothing
COMPACT = 0.78  # solidity above that of meshes and holes with a form of their own,
SINGLE = 0.88  # ... of what is one cell and not a clump,
CUSPLESS = 0.94  # ... and of holes that are no gaps between cells
MAD_TO_STD = 1.4826  # of a normal distribution: its standard deviation over its median absolute deviation
MIN_LEVELS = 3.0  # grey levels between cells and background that 8 bits can resolve


class Threshold(Segmenter):
    """Classical segmentation; deterministic, needs no weights, about 0.2 s for 640 x 480 px on one core."""

    class Config(PluginConfig):
        name: Literal["threshold"] = "threshold"
        on_device: ClassVar[bool] = False
        diameter: float | None = option(None, "px, expected cell diameter; measured from the image when absent", gt=0)
        look: Literal["auto", "dark", "bright", "texture", "walls"] = option(
            "auto", "cells are darker, brighter or rougher than the background, or lie between walls; auto: per image"
        )
        smallest: float = option(0.12, "drop what is smaller than this fraction of the typical cell area", ge=0, lt=1)

    def __init__(self, cfg: Threshold.Config, device: str = "cpu") -> None:
        self.cfg = cfg

    def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
        """(H, W, C) uint8, C in {1, 3} -> masks; an image without contrast has no cells and a note that says so."""
        scene = view(pixels, self.cfg.look)
        if scene is None:
            return Segmentation(np.zeros(pixels.shape[:2], np.int32), {}, ("no cells: the image has no contrast",))
        labels, diameter = (lumina if scene.look == "walls" else blobs)(scene, self.cfg.diameter)
        labels, _ = in_raster_order(drop_specks(labels, self.cfg.smallest * area_of(diameter)))
        notes = (f"look: {scene.look}", f"typical diameter: {diameter:.1f} px")
        return Segmentation(labels, contrasts(labels, pixels), notes)

    def identity(self) -> str:
        """The method; there are no weights."""
        return f"threshold revision {REVISION}"


@dataclass(frozen=True)
class Scene:
    """One plane in which the background is 0 and cells (or walls) are positive."""

    signal: Plane  # grey levels above the fitted background
    noise: float  # grey levels, standard deviation of the background
    front: Mask  # first guess of what is not background
    look: str
    window: float = 0.0  # px, standard deviation of the window in which roughness was measured
    power: float = 0.5  # weight of a region in the typical size is area**power: 1 where specks are many


# --- 1 what is background, and how do cells differ from it


def view(pixels: NDArray[np.uint8], look: str) -> Scene | None:
    """(H, W, C) -> the plane of best contrast after the illumination is taken out; None if nothing stands out."""
    if min(pixels.shape[:2]) < MIN_SIDE:
        return None
    image = blur(pixels.astype(np.float32), 1.0)
    grey = image @ principal_axis(image)
    flat = grey - surface(grey, np.ones(grey.shape, bool))
    if float(np.ptp(flat)) < MIN_LEVELS:
        return None
    high = flat > otsu(flat)
    if look in ("auto", "walls"):
        signal = flat if gradient_in(grey, ~high) < gradient_in(grey, high) else -flat  # lumina are smoother
        net = wall_net(signal)
        if look == "walls" or is_walled(net):
            return wall_scene(signal, net)
    bright = look == "bright" or (look != "dark" and backgroundness(grey, ~high) > backgroundness(grey, high))
    scene = colour_scene(image, high if bright else ~high, "bright" if bright else "dark")
    if look == "texture" or (look == "auto" and (not stands_out(scene) or is_two_sided(scene))):
        sharp = stands_out(scene)  # as in phase contrast; else the edges are wide
        window = max(2.0, min(grey.shape) / (250 if sharp else 150))
        scene = texture_scene(grey, window, power=0.5 if sharp else 1.0)
    return scene if stands_out(scene) else None


def colour_scene(image: NDArray[np.float32], front: Mask, look: str) -> Scene:
    """(H, W, C) grey levels, (H, W) front -> the plane along the axis of colour that separates both best."""
    level = np.stack([surface(image[..., c], ~front) for c in range(image.shape[2])], axis=-1)
    signal = np.asarray((image - level) @ discriminant(image - level, front), np.float32)
    return Scene(signal, max(robust_std(signal[~front]), 0.5), front, look)


def texture_scene(grey: Plane, window: float, power: float) -> Scene:
    """Cells are as bright as the background but rougher (brightfield, phase contrast): local standard deviation."""

    fine = grey - blur(grey, window)
    rough = np.log(np.sqrt(np.maximum(blur(fine * fine, window), 0)) + 0.5)
    front = rough > otsu(rough)
    signal = rough - surface(rough, ~front)
    noise = robust_std(signal[~front])
    for patch in regions(front):
        if patch.area < area_of(5 * window):  # not much larger than the window it was measured in
            front[patch.box][patch.mask] = False
    return Scene(signal, max(noise, 1e-3), front, "texture", window, power)


def stands_out(scene: Scene) -> bool:
    """Is the first guess more than noise cut in two, which would lie 2.3 to 2.5 standard deviations apart?"""
    if not scene.front.any():
        return False
    contrast = float(np.median(scene.signal[scene.front]))
    if scene.look == "texture":
        return contrast >= max(2.7 * scene.noise, np.log(MIN_ROUGHER))
    return contrast >= max(MIN_CONTRAST * scene.noise, MIN_LEVELS)


def is_two_sided(scene: Scene) -> bool:
    """Are there nearly as many pixels far below the background as above, as with the halos of phase contrast?"""
    far = 5 * scene.noise
    return bool((scene.signal < -far).sum() > 0.3 * (scene.signal > far).sum())


def principal_axis(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, C) -> (C,) unit vector along which the pixels vary most, pointing to brighter."""
    pixels = image[::3, ::3].reshape(-1, image.shape[2]).astype(np.float64)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels.T)))
    axis = vectors[:, -1]
    return (axis if axis.sum() >= 0 else -axis).astype(np.float32)


def discriminant(image: NDArray[np.float32], front: Mask) -> NDArray[np.float32]:
    """(C,) unit vector that separates front from back best (Fisher 1936), front positive."""
    pixels, is_front = image[::2, ::2].reshape(-1, image.shape[2]).astype(np.float64), front[::2, ::2].ravel()
    if image.shape[2] == 1 or is_front.sum() < 10 or (~is_front).sum() < 10:
        return np.full(image.shape[2], 1.0 if image[front].mean() >= 0 else -1.0, np.float32) / image.shape[2]
    within = np.cov(pixels[is_front].T) + np.cov(pixels[~is_front].T)
    within += np.eye(len(within)) * (np.trace(within) * 0.1 + 1e-6)  # JPEG noise must not pick the axis
    axis = np.linalg.solve(within, pixels[is_front].mean(0) - pixels[~is_front].mean(0))
    return (axis / np.linalg.norm(axis)).astype(np.float32)


def surface(plane: Plane, where: Mask) -> Plane:
    """Quadratic illumination fitted to `where`, outliers left out; a constant where there is little to fit."""
    height, width = plane.shape
    step = max(1, int((height * width / 20_000) ** 0.5))
    y, x = np.mgrid[0:height:step, 0:width:step]
    keep = where[::step, ::step].ravel()
    value = plane[::step, ::step].ravel().astype(np.float64)
    if keep.sum() < 50:
        return np.full(plane.shape, np.median(value), np.float32)
    v, u = y.ravel() / height * 2 - 1, x.ravel() / width * 2 - 1
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    for _ in range(3):
        weights = np.linalg.lstsq(terms[keep], value[keep], rcond=None)[0]
        rest = value - terms @ weights
        keep = where[::step, ::step].ravel() & (np.abs(rest) <= 2.5 * max(robust_std(rest[keep]), 0.5))
        if keep.sum() < 50 or where.all():  # over everything, cells are no outliers
            break
    v, u = (np.arange(height) / height * 2 - 1)[:, None], (np.arange(width) / width * 2 - 1)[None]
    a, b, c, d, e, f = weights
    return (a + b * u + c * v + d * u * u + e * u * v + f * v * v).astype(np.float32)


def otsu(values: NDArray[np.float32]) -> float:
    """(H, W) -> the threshold of greatest between-class variance (Otsu 1979), blind to the outermost 0.1 %."""
    low, high = np.percentile(values, [0.1, 99.9])
    if high <= low:
        return float(high)
    counts, edges = np.histogram(np.clip(values, low, high), 256, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    weight, moment = np.cumsum(counts), np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * weight / weight[-1] - moment) ** 2 / (weight * (weight[-1] - weight))
    return float(edges[np.nanargmax(between[:-1]) + 1])


def blur(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """(H, W) or (H, W, C) -> the same shape: Gaussian, `sigma` in px, channel by channel."""
    import cv2

    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32).reshape(plane.shape)


def robust_std(values: NDArray[Any]) -> float:
    """(n,) -> standard deviation from the median absolute deviation; 0 for nothing."""
    if values.size == 0:
        return 0.0
    sample = values.ravel()[:: max(1, values.size // 50_000)]
    return float(MAD_TO_STD * np.median(np.abs(sample - np.median(sample))))


def gradient_in(grey: Plane, where: Mask) -> float:
    """Median gradient well inside `where`; infinite where there is no inside."""
    import cv2

    inside = cv2.erode(where.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if inside.sum() < 20:
        return np.inf
    return float(np.median(np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))[inside]))


def backgroundness(grey: Plane, where: Mask) -> float:
    """Logarithmic score: a background is smoother than cells or nuclei, thicker and more of one piece."""
    import cv2

    gradient = gradient_in(grey, where)
    if gradient == np.inf:
        return -np.inf
    thickness = float(cv2.distanceTransform(where.astype(np.uint8), cv2.DIST_L2, 3).max())
    share = max(region.area for region in regions(where, connectivity=4)) / int(where.sum())
    return float(-np.log(gradient + 0.1) + 0.5 * np.log(thickness + 1) + 0.2 * np.log(share + 0.01))


# --- tissue of thin walls


def wall_net(signal: Plane) -> Mask:
    """What is brighter than its wider surroundings, on a scale where weak walls count beside strong ones."""
    import cv2

    height = np.sqrt(np.maximum(signal - float(np.percentile(signal[::2, ::2], 1)), 0))
    wide = max(15.0, min(signal.shape) / 16)
    mean = blur(height, wide)
    spread = np.sqrt(np.maximum(blur(height * height, wide) - mean * mean, 0))
    net = (height > mean + 0.1 * spread).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(net, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)) > 0)


def is_walled(net: Mask) -> bool:
    """One net, and in its meshes many compact lumina that fill a good part of the image?"""
    share = max((region.area for region in regions(net)), default=0) / max(int(net.sum()), 1)
    if share < 0.7:
        return False
    meshes = [mesh for mesh in regions(~net, connectivity=4) if 60 <= mesh.area < 0.2 * net.size]
    compact = [mesh.area for mesh in meshes if mesh.solidity > COMPACT]
    return len(compact) >= 8 and sum(compact) > 0.25 * net.size


def wall_scene(signal: Plane, net: Mask) -> Scene:
    """Wall signal over that of the lumina; `front` is the net of walls."""
    inside = signal[~net] if not net.all() else signal
    return Scene(signal - np.float32(np.median(inside)), max(robust_std(inside), 0.5), net, "walls")


# --- 2 cells that stand out from a background


def blobs(scene: Scene, diameter: float | None) -> tuple[Labels, float]:
    """Threshold, outline at half height, fill pallors, split what touches."""
    import cv2

    seen = tidy(scene.front if scene.look == "texture" else detect(scene))
    size = diameter or typical_diameter(seen, scene.power)
    level = local_level(scene.signal, seen, size)
    if scene.look != "texture":  # roughness has no height to halve
        seen = outline(scene.signal, level)
    seen = tidy(fill_pallors(seen, scene.signal / level, size))
    if scene.look == "texture":  # the window reaches over the edge
        seen = cv2.distanceTransform(seen.astype(np.uint8), cv2.DIST_L2, 5) > 0.7 * scene.window
    size = diameter or typical_diameter(seen, scene.power)
    return fill_cells(split(depth_of(seen, 0.03 * size), seen, size)), size


def depth_of(mask: Mask, smoothing: float) -> Plane:
    """px to the nearest background, a little smoothed."""
    import cv2

    depth = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    return blur(depth, max(0.6, smoothing))


def detect(scene: Scene) -> Mask:
    """Signal over a threshold found on a logarithmic scale, so that dim cells count beside bright ones."""
    noise = scene.noise
    scaled = np.log1p(np.maximum(scene.signal, 0) / (3 * noise))
    return np.asarray(scaled > otsu(scaled))


def local_level(signal: Plane, seen: Mask, diameter: float) -> Plane:
    """Mean signal of the cells nearby; the mean of all cells where none is near."""

    sigma = diameter / 3
    weight = blur(seen.astype(np.float32), sigma)
    level = blur(np.where(seen, signal, 0).astype(np.float32), sigma) / np.maximum(weight, 1e-6)
    typical = float(signal[seen].mean()) if seen.any() else 1.0
    return np.where(weight > 0.02, level, typical).astype(np.float32)


def outline(signal: Plane, level: Plane, height: float = 0.45) -> Mask:
    """Cut at a fraction of the height of the cells nearby, which is where a blurred edge really is."""
    return np.asarray(signal > height * level)


def tidy(mask: Mask) -> Mask:
    """Without hairs and single pixels."""
    import cv2

    cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, cross) > 0)


def fill_pallors(mask: Mask, relative: Plane, diameter: float) -> Mask:
    """Fill pale centres, also those of rings open at one point, but not the gaps between cells.

    `relative` is the signal over that of the cells nearby: a pallor is seldom as empty as the background.
    """
    import cv2

    filled, gaps = mask.copy(), np.zeros_like(mask)
    for hole in regions(~mask, connectivity=4):
        kind = filled if is_pallor(hole, relative, diameter) else gaps
        if hole.area < area_of(diameter):
            kind[hole.box][hole.mask] = True
    side = 2 * max(1, round(0.08 * diameter)) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(filled.astype(np.uint8), cv2.MORPH_CLOSE, disc) > 0
    for hole in regions(~closed, connectivity=4):
        if is_pallor(hole, relative, diameter) and not gaps[hole.box][hole.mask].any():
            y, x = slice(max(0, hole.y0 - side), hole.y1 + side), slice(max(0, hole.x0 - side), hole.x1 + side)
            pallor = np.zeros(filled[y, x].shape, bool)
            pallor[hole.y0 - y.start : hole.y1 - y.start, hole.x0 - x.start : hole.x1 - x.start] = hole.mask
            near = cv2.dilate(pallor.astype(np.uint8), disc) > 0
            filled[y, x] |= pallor | (near & closed[y, x])  # the second is the way in that closing had shut
    return filled


def is_pallor(hole: Region, relative: Plane, diameter: float) -> bool:
    """Tiny, or not empty, or round: gaps between cells are as empty as the background and have cusps."""
    share = hole.area / area_of(diameter)
    if share < 0.04:
        return True
    if share > 0.6:
        return False
    level = float(np.median(relative[hole.box][hole.mask]))
    return level > 0.15 or (hole.solidity > CUSPLESS and hole.roundness > 0.5)


def fill_cells(labels: Labels) -> Labels:
    """Fill what one cell alone encloses."""
    from scipy import ndimage

    full = labels.copy()
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        whole = without_holes(labels[box] == label) > 0
        full[box][whole & (labels[box] == 0)] = label
    return full


def typical_diameter(mask: Mask, power: float = 0.5) -> float:
    """px; weighted median over what looks like one cell, clumps divided at their necks first, at half resolution."""
    import cv2
    from scipy import ndimage

    half = cv2.resize(mask.astype(np.uint8), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST) > 0
    if min(mask.shape) < 64 or not half.any():
        return 2 * np.sqrt(weighted_median(np.array([region.area for region in regions(mask)]), power) / np.pi)
    whole = half.copy()
    for hole in regions(~half, connectivity=4):  # without a scale yet: whatever is round and smaller than its frame
        if hole.area < 0.02 * half.size and hole.solidity > COMPACT:
            whole[hole.box][hole.mask] = True
    depth = depth_of(whole, 1.0)
    basins, peaks = flood(depth, whole, reach=3)
    owner = Owner(peaks, np.bincount(basins.ravel(), minlength=len(peaks)).astype(np.float64))
    for saddle, a, b in passes(depth, basins):
        a, b = owner.find(a), owner.find(b)
        thick, thin = max(owner.peak[a], owner.peak[b]), min(owner.peak[a], owner.peak[b])
        if a != b and (saddle > 0.8 * thin or is_process(saddle, thin, thick)):
            owner.join(a, b)
    divided = owner.apply(basins)
    area = np.bincount(divided.ravel(), minlength=len(peaks))
    inside = np.pi * owner.peak**2
    single = [
        label
        for label, box in enumerate(ndimage.find_objects(divided), start=1)
        if box is not None and area[label] < 2.5 * inside[label] and solidity_of(divided[box] == label) > SINGLE
    ]
    return 4 * np.sqrt(
        weighted_median(area[single] if area[single].sum() > 0.35 * area[1:].sum() else area[1:], power) / np.pi
    )


def weighted_median(area: NDArray[Any], power: float = 0.5) -> float:
    """(n,) areas, px -> the one below which half of the sum of area**power lies; the least measurable one for none."""
    area = np.sort(area[area >= area_of(MIN_DIAMETER) / 4])
    if len(area) == 0:
        return area_of(MIN_DIAMETER)
    weight = area.astype(np.float64) ** power
    return float(area[min(int(np.searchsorted(np.cumsum(weight), weight.sum() / 2)), len(area) - 1)])


# --- 3 cells between walls


def lumina(scene: Scene, diameter: float | None) -> tuple[Labels, float]:
    """Basins of the wall signal; a division stays where a wall stands clearly above the floor of both sides."""

    size = diameter or 2 * np.sqrt(weighted_median(np.array([mesh.area for mesh in regions(~scene.front, 4)])) / np.pi)
    walls = blur(scene.signal, max(0.7, WALL_BLUR * size)) / local_level(scene.signal, scene.front, 2 * size)
    floor = -np.clip(walls, 0, 1.5).astype(np.float32)
    basins, peaks = flood(floor, np.ones(floor.shape, bool), reach=2)
    owner = Owner(peaks, np.bincount(basins.ravel(), minlength=len(peaks)).astype(np.float64))
    for saddle, a, b in passes(floor, basins):
        a, b = owner.find(a), owner.find(b)
        if a != b and min(owner.peak[a], owner.peak[b]) - saddle < WALL_HEIGHT:
            owner.join(a, b)
    labels = owner.apply(basins)
    sizes = np.bincount(labels.ravel())
    return np.where(sizes[labels] > 0.2 * labels.size, 0, labels).astype(np.int32), float(size)  # outside the tissue
