"""Painter of cultured neurons: one fluorophore on black, about 1 um/px; somata near 16 px, arbors up to some 250 px."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cellvision.core.config import PluginConfig, option
from cellvision.simulators import Painter, Painting
from cellvision.simulators.canvas import (
    blur,
    draw_kinds,
    finish,
    illumination,
    photograph,
    scatter,
    smooth_noise,
    window,
)
from cellvision.simulators.figures import draw_figure

# exponents that turn intensity into R, G, B: a small one shows the channel early, bright parts go to white
LOOKUPS = {"green": (2.6, 0.8, 1.9), "grey": (1.0, 1.0, 1.0), "orange": (0.75, 1.5, 3.0), "cyan": (2.6, 0.95, 0.8)}


class Neuron(Painter):
    """Few neurons in fluorescence, with haze from above and below the focal plane."""

    class Config(PluginConfig):
        name: Literal["neuron"] = "neuron"
        density: float = option(26.0, "cells per megapixel", gt=0)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def paint(
        self, rng: np.random.Generator, height: int, width: int, contamination: float, kinds: tuple[str, ...]
    ) -> Painting:
        n = max(2, round(self.cfg.density * height * width / 1e6 * rng.uniform(0.7, 1.3)))
        drawn_kinds = draw_kinds(rng, n, "neuron", contamination, kinds)
        reach = np.where(drawn_kinds == "neuron", rng.uniform(65, 105, n), rng.uniform(14, 26, n))
        places = scatter(rng, 0.6 * reach, height, width, margin=-0.05 * min(height, width))
        light = np.zeros((height, width), np.float32)
        top, masks = np.zeros_like(light), np.zeros((height, width), np.int32)
        for i, kind in enumerate(drawn_kinds):
            figure = draw_figure(rng, kind, reach[i])
            in_image, in_figure = window(places[i], figure.mask.shape, masks.shape)
            thickness = figure.thickness[in_figure]
            light[in_image] += rng.uniform(0.4, 1.0) * blur(figure.thickness, rng.choice([0.5, 0.9, 1.6]))[in_figure]
            wins = figure.mask[in_figure] & (thickness > top[in_image])  # where processes cross, the thicker is seen
            masks[in_image][wins], top[in_image][wins] = i + 1, thickness[wins]
        light += rng.uniform(0.5, 1.2) * _out_of_focus(rng, height, width)
        light = (light + rng.uniform(0.1, 0.3) * blur(light, 14)) * illumination(rng, (height, width))
        light = light * rng.uniform(0.75, 1.05) + rng.uniform(0.03, 0.07)
        lookup = np.array(LOOKUPS[str(rng.choice(list(LOOKUPS)))], np.float32)
        grey = photograph(rng, light, grain=2.5)  # fluorescence has few photons; the colour is a lookup table
        pixels = np.rint(255 * (grey[..., None] / np.float32(255)) ** lookup).astype(np.uint8)
        return finish(pixels, masks, drawn_kinds)


def _out_of_focus(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W): glow of neurons far off the focal plane, too blurred to count as cells, and a cloudy background."""
    haze = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 4)):
        figure = draw_figure(rng, "neuron", rng.uniform(70, 120))
        in_image, in_figure = window(rng.uniform((0, 0), haze.shape), figure.mask.shape, haze.shape)
        haze[in_image] += figure.thickness[in_figure]
    return blur(haze, rng.uniform(9, 14)) + 0.012 * smooth_noise(rng, (height, width), 70)
