"""What all painters share: where cells lie, which kind each is, illumination, stain, camera, the table of cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellvision.simulators import DEBRIS, Painting

SLIVER_PX = 60  # smaller remains, cut by the border or covered by a neighbour, are painted but are no cells
LEAST_BLUR_PX = 0.2  # standard deviation; below it a Gaussian changes nothing that can be seen
NEIGHBOUR = {"xylem": "phloem", "phloem": "xylem"}  # tissues grow side by side: their likeliest contaminant

# optical density per unit of stain in R, G, B; mixtures of these are the stains of both tissues
STAINS = np.array([(0.18, 0.80, 0.62), (0.85, 0.62, 0.20), (0.90, 0.38, 0.52), (0.16, 0.62, 0.42), (0.45, 0.58, 0.80)])


def draw_kinds(rng: np.random.Generator, n: int, own: str, contamination: float, kinds: tuple[str, ...]) -> np.ndarray:
    """(n,) str: `own`, or with probability `contamination` another of `kinds` or debris."""
    others = [kind for kind in (*sorted(set(kinds)), DEBRIS) if kind != own]
    weight = np.array([4.0 if NEIGHBOUR.get(own) == kind else 1.0 for kind in others])
    foreign = rng.random(n) < contamination
    return np.where(foreign, rng.choice(others, size=n, p=weight / weight.sum()), own)


def scatter(
    rng: np.random.Generator, radii: np.ndarray, height: int, width: int, margin: float, crowd: float = 0.0
) -> np.ndarray:
    """(n,) radii -> (n, 2) y, x: each disc takes the emptiest of 24 random places (Mitchell 1991, best candidate).

    For a share `crowd` of the discs these places lie against one earlier disc, touching or overlapping it.
    """
    low, high = np.array([-margin, -margin]), np.array([height + margin, width + margin])
    places = np.empty((len(radii), 2))
    for i, radius in enumerate(radii):
        spots, partner = rng.uniform(low, high, size=(24, 2)), -1
        if i and rng.random() < crowd:
            partner, angle = int(rng.integers(i)), rng.uniform(0, 2 * np.pi, 24)
            reach = (radius + radii[partner]) * rng.uniform(0.72, 1.02)
            spots = np.clip(places[partner] + reach * np.stack([np.sin(angle), np.cos(angle)], 1), low, high)
        gap = np.linalg.norm(spots[:, None] - places[None, :i], axis=2) - radii[:i]
        if partner >= 0:
            gap[:, partner] = np.inf
        places[i] = spots[int(gap.min(axis=1, initial=1e6).argmax())]
    return places


def window(
    centre_yx: np.ndarray, patch: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of an image of `shape` and of the patch centred in it at (y, x), cut at the border; both may be empty."""
    in_image, in_patch = [], []
    for centre, size, limit in zip(centre_yx.tolist(), patch, shape, strict=True):
        start = round(centre) - size // 2
        low, high = min(max(start, 0), limit), max(min(start + size, limit), 0)
        in_image.append(slice(low, max(low, high)))
        in_patch.append(slice(low - start, max(low, high) - start))
    return (in_image[0], in_image[1]), (in_patch[0], in_patch[1])


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale_px: float) -> np.ndarray:
    """(H, W) float32 noise of about unit variance whose blotches are `scale_px` wide."""
    import cv2

    height, width = shape
    step = max(scale_px, 1.0)
    grid = rng.standard_normal((int(height / step) + 3, int(width / step) + 3)).astype(np.float32)
    return 1.3 * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def illumination(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) about 1: a tilted plane, vignetting off a random centre, and faint blotches."""
    height, width = shape
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    angle, tilt, vignette = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.12), rng.uniform(0, 0.25)
    cy, cx = rng.uniform(0.3, 0.7, size=2)
    plane = tilt * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    field = 1 + plane - vignette * ((x - cx) ** 2 + (y - cy) ** 2)
    return (field + 0.008 * smooth_noise(rng, shape, max(shape) / 6)).astype(np.float32)


def blur(image: np.ndarray, sigma_px: float) -> np.ndarray:
    """(H, W) or (H, W, C) -> the same shape; too small a Gaussian to matter leaves it as it is."""
    import cv2

    return cv2.GaussianBlur(image, (0, 0), float(sigma_px)) if sigma_px > LEAST_BLUR_PX else image


def mix_stain(rng: np.random.Generator, sharpness: float = 0.5) -> np.ndarray:
    """(3,) optical density of a random mixture of the usual stains, of unit mean."""
    vector = rng.dirichlet(np.full(len(STAINS), sharpness)) @ STAINS
    return vector / vector.mean()


def photograph(rng: np.random.Generator, light: np.ndarray, grain: float = 1.0) -> np.ndarray:
    """(H, W) or (H, W, C) light, 1 = white -> uint8 of its shape: blur of the lens, gain, shot and read noise."""
    light = blur(light.astype(np.float32), rng.uniform(0.5, 1.3)) * rng.uniform(0.92, 1.05)
    shot, read = grain * rng.uniform(0.006, 0.022), grain * rng.uniform(0.003, 0.009)
    spread = np.sqrt(shot**2 * np.clip(light, 0, 1) + read**2)
    noisy = light + spread * rng.standard_normal(light.shape, dtype=np.float32)
    return np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def finish(pixels: np.ndarray, masks: np.ndarray, kinds: np.ndarray) -> Painting:
    """(H, W) or (H, W, 3) uint8, (H, W) labels, (n,) kinds, `kinds[i]` of label i + 1 -> no slivers, labels 1..n."""
    area = np.bincount(masks.ravel(), minlength=len(kinds) + 1)
    kept = np.flatnonzero(area[1:] >= SLIVER_PX) + 1
    number = np.zeros(len(kinds) + 1, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    masks = number[masks]
    return Painting(pixels, masks, tabulate(masks, [str(kinds[label - 1]) for label in kept]))


def tabulate(masks: np.ndarray, kinds: list[str]) -> list[dict[str, Any]]:
    """One row per label: kind, centroid y and x in px, area in px, whether it touches the image border."""
    n, flat = len(kinds) + 1, masks.ravel()
    area = np.bincount(flat, minlength=n)
    rows, columns = np.indices(masks.shape)
    y = np.bincount(flat, weights=rows.ravel(), minlength=n) / np.maximum(area, 1)
    x = np.bincount(flat, weights=columns.ravel(), minlength=n) / np.maximum(area, 1)
    edge = set(np.concatenate([masks[0], masks[-1], masks[:, 0], masks[:, -1]]).tolist())
    places = zip(kinds, y[1:].tolist(), x[1:].tolist(), area[1:].tolist(), strict=True)
    return [
        {"label": i, "kind": kind, "y": cy, "x": cx, "area_px": size, "touches_border": i in edge}
        for i, (kind, cy, cx, size) in enumerate(places, start=1)
    ]
