"""Painters of stained plant tissue in cross section, brightfield, about 0.6 um/px: xylem and phloem.

Xylem: round, thick-walled vessels of strongly varied size (22 to 90 px), few small parenchyma cells. Phloem:
thin-walled sieve tubes (30 to 46 px), some cut at the sieve plate, with companion cells. One distribution of stains.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellvision.core.config import PluginConfig, option
from cellvision.simulators import Painter, Painting
from cellvision.simulators.canvas import finish, illumination, mix_stain, photograph, smooth_noise, window
from cellvision.simulators.figures import draw_figure
from cellvision.simulators.section import TISSUES, Layout, lay_out, partition


class Tissue(Painter):
    """A section of walled cells that fill the plane."""

    class Config(PluginConfig):
        name: str = "tissue"
        scale: float = option(1.0, "size of the cells relative to the text-book figure", gt=0.3, lt=3)

    own = ""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def paint(
        self, rng: np.random.Generator, height: int, width: int, contamination: float, kinds: tuple[str, ...]
    ) -> Painting:
        scale = self.cfg.scale * rng.uniform(0.9, 1.12)
        cells = lay_out(rng, (height, width), self.own, scale, contamination, kinds)
        nearest, depth = partition(rng, cells, height, width)
        masks = np.where(depth > 0.7, nearest + 1, 0).astype(np.int32)
        wall = stain_walls(rng, cells, nearest, depth)
        content = stain_lumina(rng, cells, nearest, depth)
        strength = rng.uniform(0.55, 1.25)
        # counterstain, pale or strong, in a tinted mount
        mounted = rng.uniform(0, 0.2) + content * rng.uniform(0.25, 1.3)
        density = rng.uniform(0.5, 1.1) * wall[..., None] * mix_stain(rng) + mounted[..., None] * mix_stain(rng)
        light = np.exp(-strength * density) * rng.uniform(0.86, 0.98) * (1 + rng.uniform(-0.04, 0.04, 3))
        pixels = photograph(rng, light * illumination(rng, (height, width))[..., None])
        return finish(pixels, masks, cells.kind)


class Xylem(Tissue):
    """Water-conducting tissue."""

    class Config(Tissue.Config):
        name: Literal["xylem"] = "xylem"

    own = "xylem"


class Phloem(Tissue):
    """Sugar-conducting tissue."""

    class Config(Tissue.Config):
        name: Literal["phloem"] = "phloem"

    own = "phloem"


def stain_walls(rng: np.random.Generator, cells: Layout, nearest: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(H, W) stain in the walls: a dark middle lamella, and the wall proper, whose strength varies between cells."""
    wall = cells.wall[nearest]
    taken = rng.uniform(0.55, 0.85, len(cells.wall))[nearest]
    proper = taken / (1 + np.exp(np.clip((depth - wall) / 0.45, -30, 30)))
    layers = 1 + 0.10 * np.cos(2 * np.pi * depth / 2.4)
    lamella = 0.45 * np.exp(-((depth / 0.9) ** 2))
    return (proper * layers + lamella) * (1 + 0.06 * smooth_noise(rng, depth.shape, 12))


def stain_lumina(rng: np.random.Generator, cells: Layout, nearest: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(H, W) stain inside the cells: granular cytoplasm, nuclei of small cells, sieve plates, foreign bodies."""
    height, width = depth.shape
    inside = 1 / (1 + np.exp(np.clip((cells.wall[nearest] - depth) / 0.5, -30, 30)))
    granules = 0.35 * smooth_noise(rng, (height, width), 3) + 0.3 * smooth_noise(rng, (height, width), 14)
    content = cells.content[nearest] * np.clip(1 + granules, 0, None)
    plates = np.flatnonzero(~cells.woody & ~cells.small & (rng.random(len(cells.kind)) < 0.14))
    content = np.where(np.isin(nearest, plates), sieve_plates(rng, nearest), content)
    for i, kind in enumerate(cells.kind):
        centre = cells.place[i]
        lumen = cells.radius[i] - cells.wall[i]
        if kind not in TISSUES:
            figure = draw_figure(rng, kind, lumen * (1.5 if kind == "neuron" else 0.8))
            blob = 0.6 * figure.thickness
        elif cells.small[i] and rng.random() < 0.7:
            centre = centre + rng.normal(0, 0.2 * lumen, 2)
            blob = 0.5 * draw_figure(rng, "debris", max(2.0, 0.4 * lumen)).thickness
        else:
            continue
        in_image, in_figure = window(centre, blob.shape, depth.shape)
        content[in_image] += np.where(nearest[in_image] == i, blob[in_figure], 0)
    return content * inside


def sieve_plates(rng: np.random.Generator, nearest: np.ndarray) -> np.ndarray:
    """(H, W) stain of perforated walls seen from above: clear pores on a triangular lattice, turned per cell."""
    height, width = nearest.shape
    turn = rng.uniform(0, np.pi / 3, nearest.max() + 1)[nearest]
    wave = 4 * np.pi / np.sqrt(3) / rng.uniform(5.0, 6.5)  # 1/px; 5 to 6.5 px between pores
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y += 0.7 * smooth_noise(rng, (height, width), 9)
    x += 0.7 * smooth_noise(rng, (height, width), 9)
    pores = sum(np.cos(wave * (x * np.cos(turn + a) + y * np.sin(turn + a))) for a in np.pi / 3 * np.arange(3))
    return 0.55 - 0.45 / (1 + np.exp(-3.0 * (pores - 0.4)))
