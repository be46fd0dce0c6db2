"""Painter of red blood cells in a smear: brightfield with relief, 0.2 um/px, so that 7.5 um are 38 px."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellvision.core.config import PluginConfig, option
from cellvision.simulators import Painter, Painting
from cellvision.simulators.canvas import blur, draw_kinds, finish, illumination, photograph, scatter, window
from cellvision.simulators.figures import draw_figure

HAEMOGLOBIN = np.array([0.55, 1.30, 1.25])  # optical density in R, G, B, relative


class Rbc(Painter):
    """Biconcave discs, some touching or overlapping. Thickness absorbs; its slope along the shear gives the relief."""

    class Config(PluginConfig):
        name: Literal["rbc"] = "rbc"
        diameter: float = option(38.0, "px, of a typical cell", gt=8)
        cover: float = option(0.34, "share of the area under cells, on average", gt=0, lt=0.8)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def paint(
        self, rng: np.random.Generator, height: int, width: int, contamination: float, kinds: tuple[str, ...]
    ) -> Painting:
        typical = self.cfg.diameter / 2 * rng.uniform(0.92, 1.08)
        margin = 0.8 * typical
        area = (height + 2 * margin) * (width + 2 * margin)
        n = max(3, round(self.cfg.cover * rng.uniform(0.5, 1.5) * area / (np.pi * typical**2)))
        drawn_kinds = draw_kinds(rng, n, "rbc", contamination, kinds)
        radii = typical * np.clip(rng.normal(1, 0.06, n), 0.8, 1.25)
        radii[drawn_kinds == "neuron"] *= rng.uniform(1.4, 1.8)
        radii[drawn_kinds != "rbc"] *= rng.uniform(0.8, 1.25, n)[drawn_kinds != "rbc"]
        places = scatter(rng, radii, height, width, margin, crowd=rng.uniform(0.05, 0.35))
        film, masks = np.zeros((height, width), np.float32), np.zeros((height, width), np.int32)
        for i, kind in enumerate(drawn_kinds):
            figure = draw_figure(rng, kind, radii[i])
            in_image, in_figure = window(places[i], figure.mask.shape, masks.shape)
            film[in_image] += figure.thickness[in_figure] * rng.uniform(0.85, 1.15)
            masks[in_image][figure.mask[in_figure]] = i + 1  # later cells lie on top
        return finish(photograph(rng, _transmit(rng, film)), masks, drawn_kinds)


def _transmit(rng: np.random.Generator, film: np.ndarray) -> np.ndarray:
    """(H, W) thickness -> (H, W, 3) light: absorption by haemoglobin, or nearly grey, and relief on an uneven field."""
    height, width = film.shape
    grey = rng.beta(0.6, 0.6)  # 1 is a grey camera
    density = rng.uniform(0.22, 0.6) * ((1 - grey) * HAEMOGLOBIN + grey)
    slope_y, slope_x = np.gradient(blur(film, 0.9))
    shear = rng.uniform(0, 2 * np.pi)
    relief = rng.uniform(0.25, 1.2) * (np.cos(shear) * slope_x + np.sin(shear) * slope_y)
    tone = rng.uniform(0.68, 0.9) * (1 + (1 - 0.7 * grey) * rng.uniform(-0.07, 0.07, 3))
    light = np.exp(-film[..., None] * density) * (1 + relief[..., None])
    return light * tone * illumination(rng, (height, width))[..., None]
