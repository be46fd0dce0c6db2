"""Single cells of every kind as patches of thickness, to be shown by whatever optics the host image has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellvision.simulators.canvas import smooth_noise

FORKS = (0.95, 0.75, 0.45, 0.15, 0.0, 0.0)  # chance that a process of this order forks at its end
AXON = 5  # the order given to the axon: long, thin, unforked


@dataclass(frozen=True, eq=False)
class Figure:
    """A cell before any optics."""

    thickness: np.ndarray  # (h, w) float32, 0 outside, about 1 where the cell is thickest
    mask: np.ndarray  # (h, w) bool


def draw_figure(rng: np.random.Generator, kind: str, radius_px: float) -> Figure:
    """A cell of `kind` in a patch just large enough for it. A neuron's radius is the reach of its processes."""
    return arbor(rng, radius_px) if kind == "neuron" else _outlined(rng, kind, radius_px)


def _outlined(rng: np.random.Generator, kind: str, radius_px: float) -> Figure:
    """A cell given by its outline in polar form and a profile of the relative radius rho (0 centre, 1 outline)."""
    half = int(np.ceil(1.5 * radius_px)) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = np.arctan2(y, x)
    rho = np.hypot(y, x) / (radius_px * _outline(rng, kind, angle))
    mask = rho < 1
    profile = {"rbc": _discocyte, "xylem": _vessel, "phloem": _sieve_tube, "debris": _crumb}[kind]
    return Figure(np.where(mask, profile(rng, np.minimum(rho, 1), radius_px), 0).astype(np.float32), mask)


def _outline(rng: np.random.Generator, kind: str, angle: np.ndarray) -> np.ndarray:
    """Relative radius of the outline at each angle: harmonics, rougher for debris; a rounded polygon for phloem."""
    rough = {"rbc": 0.022, "xylem": 0.02, "phloem": 0.025, "debris": 0.10}[kind]
    outline = np.ones_like(angle)
    for order in range(2, 8 if kind == "debris" else 5):
        outline += rng.normal(0, rough * (2 / order) ** 0.7) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    if kind == "phloem":
        sector = 2 * np.pi / rng.integers(5, 7)
        turned = np.mod(angle + rng.uniform(0, sector), sector) - sector / 2
        outline *= 0.35 + 0.65 * np.cos(sector / 2) / np.cos(turned)
    return np.clip(outline, 0.5, 1.45)


def _discocyte(rng: np.random.Generator, rho: np.ndarray, radius_px: float) -> np.ndarray:
    """Biconcave profile of Evans and Fung 1972: c0 0.81, c1 7.83, c2 -4.39 um; here c0, the dimple, varies."""
    dimple = np.clip(rng.normal(0.5, 0.45), 0.05, 1.9)  # c0: small is a deep central pallor
    return np.sqrt(1 - rho**2) * (dimple + 7.83 * rho**2 - 4.39 * rho**4) / 2.6


def _vessel(rng: np.random.Generator, rho: np.ndarray, radius_px: float) -> np.ndarray:
    """A thick ring round an empty lumen."""
    wall = rng.uniform(0.2, 0.32)
    return 0.08 + 0.85 / (1 + np.exp(-(rho - (1 - wall)) * radius_px / 0.9))


def _sieve_tube(rng: np.random.Generator, rho: np.ndarray, radius_px: float) -> np.ndarray:
    """A thin wall round a granular lumen."""
    granules = 0.08 * smooth_noise(rng, rho.shape, 2.5)
    return 0.25 + granules + 0.6 / (1 + np.exp(-(rho - 1) * radius_px - 2.2))


def _crumb(rng: np.random.Generator, rho: np.ndarray, radius_px: float) -> np.ndarray:
    """A lumpy mass without structure."""
    lumps = 0.75 + 0.18 * smooth_noise(rng, rho.shape, max(2.5, radius_px / 3))
    return np.clip(lumps, 0.15, 1.2) * np.sqrt(1 - rho**2) ** 0.7


def arbor(rng: np.random.Generator, reach_px: float) -> Figure:
    """Soma and branching processes. Rall's 3/2 rule: each of two equal daughters has 0.63 of the radius."""
    import cv2

    soma = np.clip(0.095 * reach_px, 4.5, 12.0) * rng.uniform(0.85, 1.2)  # px, radius
    beads = _grow(rng, reach_px, soma)
    half = int(np.ceil(np.abs(beads[:, :2]).max() + beads[:, 2].max())) + 3
    patch = np.zeros((2 * half + 1, 2 * half + 1), np.uint8)
    fixed = np.rint((beads[:, [1, 0, 2]] + (half, half, 0)) * 16).astype(int).tolist()  # 1/16 px for OpenCV's shift
    light = np.rint(255 * np.clip(0.22 + 0.78 * (beads[:, 2] / soma) ** 0.8, 0, 1)).astype(int).tolist()
    for i in np.argsort(beads[:, 2], kind="stable").tolist():  # thick over thin
        cv2.circle(patch, fixed[i][:2], fixed[i][2], light[i], -1, cv2.LINE_AA, 4)
    thickness = cv2.GaussianBlur(patch, (0, 0), 0.6).astype(np.float32) / 255
    mottle = np.clip(1 + 0.08 * smooth_noise(rng, patch.shape, 3.5), 0.7, 1.3)
    return Figure(thickness * mottle, thickness > 0.12)


def _grow(rng: np.random.Generator, reach_px: float, soma: float) -> np.ndarray:
    """(n, 3) y, x, radius of beads one px apart: the soma at the origin, then every process."""
    trunks = int(rng.integers(3, 7))
    first = rng.uniform(0, 2 * np.pi)
    squash, tilt = rng.uniform(0, 0.45), rng.uniform(0, np.pi)
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.sin(around), np.cos(around)], 1) * (soma * squash * np.cos(around - tilt) ** 2)[:, None]
    parts = [np.column_stack([ring, np.full(len(ring), soma * (1 - 0.35 * squash))])]
    buds = []  # y, x, heading, radius, length, order
    for i in range(trunks):
        heading = first + 2 * np.pi * (i + rng.uniform(-0.3, 0.3)) / trunks
        buds.append((0.0, 0.0, heading, soma * rng.uniform(0.28, 0.45), reach_px * rng.uniform(0.3, 0.6), 0))
    buds.append((0.0, 0.0, rng.uniform(0, 2 * np.pi), 0.2 * soma, reach_px * rng.uniform(0.9, 1.3), AXON))
    while buds:
        y, x, heading, radius, length, order = buds.pop()
        steps = max(4, int(length))
        bend = np.cumsum(rng.normal(0, 0.065, steps)) + rng.normal(0, 0.005) * np.arange(steps)
        ys, xs = y + np.cumsum(np.sin(heading + bend)), x + np.cumsum(np.cos(heading + bend))
        along = np.linspace(0, 1, steps)
        width = radius * (1 - (0.3 if order < AXON else 0.1) * along)
        if order == 0:
            width = width + 0.55 * soma * np.exp(-np.arange(steps) / (0.8 * soma))  # the cone where a dendrite leaves
        width = np.maximum(width * (1 + 0.12 * np.sin(np.cumsum(rng.uniform(0.1, 0.5, steps)))), 0.7)
        parts.append(np.column_stack([ys, xs, width]))
        if rng.random() < FORKS[order]:
            fork = rng.uniform(0.35, 0.9)
            for side in (-1, 1):
                turn = heading + bend[-1] + side * fork * rng.uniform(0.6, 1.2) / 1.4
                buds.append((ys[-1], xs[-1], turn, 0.63 * width[-1], length * rng.uniform(0.6, 1.1), order + 1))
    return np.concatenate(parts)
