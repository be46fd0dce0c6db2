"""Hand-made features of crops: the honest classical baselines every network has to beat.

Reads crops uint8 (n, S, S, 4): three channels and the cell's mask (0 or not). Every function returns float32 (n, d),
one row per crop that depends on that crop alone, so any chunking gives the same numbers; `NAMES[kind]` names columns.
A crop with an empty mask gets zeros for what cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import shapes
from cellvision.cells.pixels import grey_of

Crops = NDArray[np.uint8]  # (n, S, S, 4)
Features = NDArray[np.float32]  # (n, d)
Image = NDArray[np.uint8]  # (S, S, 3)
Mask = NDArray[np.bool_]  # (S, S)

PERCENTILES = (5, 25, 50, 75, 95)
RINGS = 8  # zones from the rim to the centre of a cell
ANGLES = 64  # directions in which an outline is read
WAVES = 12  # how many harmonics of the outline are kept
TURNS = 5  # angular harmonics kept in each ring
LEVELS = 16  # grey levels of the co-occurrence matrix
STEPS = (1, 3)  # px, distances of co-occurrence and local binary patterns
HOG_SIDE = 48  # px, window of the oriented gradients
HOG_CELL = 12  # px
HOG_BINS = 9  # orientations over half a turn
HOG_COUNT = (HOG_SIDE // HOG_CELL - 1) ** 2 * 4 * HOG_BINS


def colour(crops: Crops) -> Features:
    """(n, S, S, 4) -> (n, d): mean, spread and percentiles of each channel in the cell and around it.

    They are the same when a crop is turned.
    """
    return _rows(crops, lambda image, mask: np.concatenate([_channels(image, mask), _channels(image, ~mask)]), "colour")


def background(crops: Crops) -> Features:
    """(n, S, S, 4) -> (n, d): the same statistics outside the mask only.

    What classifies with these sees slide or camera, not cells.
    """
    return _rows(crops, lambda image, mask: _channels(image, ~mask), "background")


def shape(crops: Crops) -> Features:
    """(n, S, S, 4) -> (n, d): size and form from the mask alone (px where a length).

    Hu moments are signed logarithms (Hu 1962).
    """
    return _forms(crops[..., 3] > 0).astype(np.float32)


def handmade(crops: Crops) -> Features:
    """(n, S, S, 4) -> (n, d): shape, outline, intensity, radial profile, texture, gradients, for a random forest.

    Intensities are given both as they are and as differences to the surroundings of the cell; the gradients are taken
    of the cell alone, centred, turned to its long axis and scaled to one size; the size itself is a shape feature.
    """
    return np.hstack([shape(crops), _rows(crops, _everything, "handmade", len(_SHAPE))])


def _rows(crops: Crops, describe: Callable[[Image, Mask], NDArray[Any]], kind: str, before: int = 0) -> Features:
    """(n, d) what `describe` says of each crop: the columns of a kind without the first `before`."""
    out = np.zeros((len(crops), len(NAMES[kind]) - before), np.float32)
    for row, crop in enumerate(crops):
        out[row] = describe(np.ascontiguousarray(crop[..., :3]), crop[..., 3] > 0)
    return out


def _everything(image: Image, mask: Mask) -> NDArray[np.float64]:
    """All but the shape."""
    grey = grey_of(image)
    around = _level(image, ~mask)
    parts = [_outline(mask), _channels(image, mask), _channels(grey[..., None], mask)]
    parts += [_level(image, mask) - around, _rings(image, mask, around)]
    return np.concatenate([*parts, _patterns(grey, mask), _cooccurrence(grey, mask), *_posed(grey, mask)])


# --- intensity


def _channels(image: NDArray[np.uint8], where: Mask) -> NDArray[np.float64]:
    """(S, S, C) -> (7 C,): mean, standard deviation and percentiles over `where`, channel by channel."""
    values = np.sort(image[where], axis=0)
    if len(values) == 0:
        return np.zeros(image.shape[2] * (2 + len(PERCENTILES)))
    ranks = np.round(np.array(PERCENTILES) / 100 * (len(values) - 1)).astype(int)
    return np.concatenate([values.mean(0)[None], values.std(0)[None], values[ranks]]).T.ravel()


def _level(image: Image, where: Mask) -> NDArray[np.float64]:
    return np.median(image[where], axis=0) if where.any() else np.zeros(3)


def _rings(image: Image, mask: Mask, around: NDArray[np.float64]) -> NDArray[np.float64]:
    """(RINGS * 3,): mean of each channel over the surroundings, from the rim to the deepest point of the cell."""
    import cv2

    if not mask.any():
        return np.zeros(RINGS * 3)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1][mask]
    ring = np.minimum((depth / depth.max() * RINGS).astype(int), RINGS - 1)
    count = np.maximum(np.bincount(ring, minlength=RINGS), 1)
    values = image[mask].astype(np.float64) - around
    return np.stack([np.bincount(ring, values[:, c], RINGS) / count for c in range(3)], axis=1).ravel()


# --- form


def _forms(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(n, S, S) -> (n, len(_SHAPE)) what `shapes` says of each mask, its depth, how full it is, and its Hu moments."""
    out = np.zeros((len(masks), len(_SHAPE)))
    labels, runs = shapes.stacked(masks)
    present = runs.names - 1  # the others are empty
    area, ellipse = shapes.areas(runs).astype(np.float64), shapes.ellipses(runs)
    perimeter, _ = shapes.outlines(labels, runs.names)
    y0, x0, y1, x1 = shapes.boxes(runs).T
    columns = {
        "area_px": area, "diameter_px": np.sqrt(4 * area / np.pi), "perimeter_px": perimeter,
        "eccentricity": ellipse.eccentricity, "solidity": shapes.solidity(runs),
        "extent": area / ((y1 - y0) * (x1 - x0)), "form_factor": _over(4 * np.pi * area, perimeter**2),
        "major_axis_px": ellipse.major, "minor_axis_px": ellipse.minor,
        "axis_ratio": _over(ellipse.minor, ellipse.major),
    }  # fmt: skip
    for name, values in columns.items():
        out[present, _SHAPE.index(name)] = values
    for row in present:
        out[row, len(columns) :] = _depth_and_moments(masks[row])
    return out


def _over(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Their quotient, 0 where a single pixel has no perimeter and no axes."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _depth_and_moments(mask: Mask) -> NDArray[np.float64]:
    """(9,): px from the deepest point to the rim, area over that of the filled outline, signed logarithms of Hu's."""
    import cv2

    contours, _ = cv2.findContours(np.pad(mask, 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outer = max(contours, key=len)
    filled = cv2.contourArea(outer) + cv2.arcLength(outer, True) / 2 + 1  # the outline runs through pixel centres
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5).max()
    hu = cv2.HuMoments(cv2.moments(mask.astype(np.uint8), binaryImage=True)).ravel()
    return np.concatenate([[depth, min(1.0, mask.sum() / filled)], np.sign(hu) * -np.log10(np.abs(hu) + 1e-12)])


def _outline(mask: Mask) -> NDArray[np.float64]:
    """(WAVES + 2,): harmonics of the distance centre to outline over its mean; its least and greatest value."""
    import cv2

    contours, _ = cv2.findContours(np.pad(mask, 1).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return np.zeros(WAVES + 2)
    points = max(contours, key=len)[:, 0].astype(np.float64)
    offset = points - (np.argwhere(mask).mean(0)[::-1] + 1)
    angle, radius = np.arctan2(offset[:, 1], offset[:, 0]), np.hypot(offset[:, 0], offset[:, 1])
    order = np.argsort(angle, kind="stable")
    read = np.interp(np.linspace(-np.pi, np.pi, ANGLES, endpoint=False), angle[order], radius[order], period=2 * np.pi)
    read = read / max(read.mean(), 1e-6)
    return np.concatenate([np.abs(np.fft.rfft(read))[1 : WAVES + 1] / ANGLES, [read.min(), read.max()]])


# --- texture


def _patterns(grey: NDArray[np.uint8], mask: Mask) -> NDArray[np.float64]:
    """Shares of the ten rotation-invariant uniform local binary patterns (Ojala 2002), for each of STEPS."""
    ring = np.array([(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)])
    y, x = np.nonzero(mask)
    histograms = []
    for step in STEPS:
        padded = np.pad(grey, step, mode="edge")
        bits = np.stack([padded[y + step + dy, x + step + dx] >= grey[y, x] for dy, dx in ring * step])
        changes = (bits != np.roll(bits, 1, axis=0)).sum(0)
        code = np.where(changes <= 2, bits.sum(0), 9)
        histograms.append(np.bincount(code, minlength=10) / max(len(code), 1))
    return np.concatenate(histograms)


def _cooccurrence(grey: NDArray[np.uint8], mask: Mask) -> NDArray[np.float64]:
    """Contrast, homogeneity, energy and correlation of neighbouring grey levels in the cell (Haralick 1973)."""
    statistics = []
    if mask.any():
        low, high = np.percentile(grey[mask], [1, 99])
        level = np.clip((grey.astype(np.float64) - low) / max(high - low, 1.0) * LEVELS, 0, LEVELS - 1).astype(int)
    for step in STEPS:
        counts = np.zeros(LEVELS * LEVELS)
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            here, there = _shifted(mask, dy, dx)
            pairs = mask[here] & mask[there]
            if pairs.any():
                counts += np.bincount(level[here][pairs] * LEVELS + level[there][pairs], minlength=LEVELS * LEVELS)
        statistics.append(_haralick(counts.reshape(LEVELS, LEVELS)))
    return np.concatenate(statistics)


def _shifted(mask: Mask, dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    height, width = mask.shape
    rows = slice(0, height - dy), slice(dy, height)
    columns = (slice(0, width - dx), slice(dx, width)) if dx >= 0 else (slice(-dx, width), slice(0, width + dx))
    return (rows[0], columns[0]), (rows[1], columns[1])


def _haralick(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    if counts.sum() == 0:
        return np.zeros(4)
    share = (counts + counts.T) / (2 * counts.sum())
    i, j = np.indices(share.shape)
    mean = float((share * i).sum())
    variance = float((share * (i - mean) ** 2).sum())
    correlation = float((share * (i - mean) * (j - mean)).sum()) / variance if variance > 1e-9 else 0.0
    contrast, homogeneity = (share * (i - j) ** 2).sum(), (share / (1 + (i - j) ** 2)).sum()
    return np.array([contrast, homogeneity, np.sqrt((share**2).sum()), correlation])


# --- the cell in a standard pose


def _posed(grey: NDArray[np.uint8], mask: Mask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angular harmonics in rings around the centre, and oriented gradients, of the cell centred, turned and scaled."""
    import cv2

    if not mask.any():
        return np.zeros(RINGS * TURNS), np.zeros(HOG_COUNT)
    outside = float(np.median(grey[~mask])) if (~mask).any() else float(grey[mask].mean())
    cell = np.where(mask, grey - outside, 0).astype(np.float32)
    y, x = np.nonzero(mask)
    spread = np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12
    _, vectors = np.linalg.eigh(spread)
    along = vectors[:, 1]
    scale = 0.72 * HOG_SIDE / np.sqrt(4 * len(y) / np.pi)  # equivalent diameter to 72 % of the window
    turn = np.array([[along[0], along[1]], [-along[1], along[0]]]) * scale
    offset = HOG_SIDE / 2 - 0.5 - turn @ [x.mean(), y.mean()]
    pose = np.asarray(cv2.warpAffine(cell, np.column_stack([turn, offset]), (HOG_SIDE, HOG_SIDE)), np.float32)
    middle = HOG_SIDE // 2
    if pose[:, middle:].sum() < pose[:, :middle].sum():  # an axis has no direction: the heavier half goes right
        pose = pose[::-1, ::-1]
    largest = max(float(np.abs(pose).max()), 1.0)
    return _turns(pose / largest), _gradients(pose / largest)


def _turns(pose: NDArray[np.float32]) -> NDArray[np.float64]:
    """(RINGS * TURNS,): size of the first angular harmonics in each ring around the centre, the same at any turn."""
    import cv2

    centre = (HOG_SIDE / 2 - 0.5, HOG_SIDE / 2 - 0.5)
    polar = cv2.warpPolar(np.ascontiguousarray(pose), (RINGS, ANGLES), centre, HOG_SIDE / 2, cv2.WARP_POLAR_LINEAR)
    return (np.abs(np.fft.rfft(polar, axis=0))[:TURNS] / ANGLES).T.ravel()


def _gradients(pose: NDArray[np.float32]) -> NDArray[np.float64]:
    """Histograms of oriented gradients, L2 normalised in overlapping blocks of 2 x 2 cells (Dalal & Triggs 2005)."""
    down, right = np.gradient(pose.astype(np.float64))
    size = np.hypot(down, right)
    turn = np.arctan2(down, right) % np.pi / np.pi * HOG_BINS
    low = np.floor(turn)
    upper = size * (turn - low)
    cells = HOG_SIDE // HOG_CELL
    place = np.arange(HOG_SIDE) // HOG_CELL
    cell = (place[:, None] * cells + place) * HOG_BINS
    first, second = low.astype(int) % HOG_BINS, (low.astype(int) + 1) % HOG_BINS
    count = cells * cells * HOG_BINS
    histogram = np.bincount((cell + first).ravel(), (size - upper).ravel(), count)
    histogram = (histogram + np.bincount((cell + second).ravel(), upper.ravel(), count)).reshape(cells, cells, HOG_BINS)
    blocks = np.concatenate([histogram[:-1, :-1], histogram[:-1, 1:], histogram[1:, :-1], histogram[1:, 1:]], axis=2)
    return (blocks / np.sqrt((blocks**2).sum(axis=2, keepdims=True) + 1e-4)).ravel()


# --- names

FORM: tuple[str, ...] = (
    "area_px",
    "diameter_px",
    "perimeter_px",
    "eccentricity",
    "solidity",
    "extent",
    "form_factor",
    "major_axis_px",
)
FORM += ("minor_axis_px", "axis_ratio", "inner_radius_px", "filled")


def _statistics(where: str, channels: tuple[str, ...]) -> tuple[str, ...]:
    names = ("mean", "std", *(f"p{percentile}" for percentile in PERCENTILES))
    return tuple(f"{where}_{channel}_{name}" for channel in channels for name in names)


def _numbered(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}_{number}" for number in range(count))


_RGB = ("red", "green", "blue")
_SHAPE = (*FORM, *_numbered("hu", 7))
NAMES: dict[str, tuple[str, ...]] = {
    "colour": _statistics("cell", _RGB) + _statistics("background", _RGB),
    "background": _statistics("background", _RGB),
    "shape": _SHAPE,
    "handmade": (
        *_SHAPE,
        *_numbered("outline_wave", WAVES),
        "outline_least",
        "outline_greatest",
        *_statistics("cell", (*_RGB, "grey")),
        *(f"over_background_{channel}" for channel in _RGB),
        *(f"ring_{ring}_{channel}" for ring in range(RINGS) for channel in _RGB),
        *(f"pattern_{step}px_{code}" for step in STEPS for code in range(10)),
        *(f"{name}_{step}px" for step in STEPS for name in ("contrast", "homogeneity", "energy", "correlation")),
        *(f"turn_{ring}_{wave}" for ring in range(RINGS) for wave in range(TURNS)),
        *_numbered("hog", HOG_COUNT),
    ),
}
