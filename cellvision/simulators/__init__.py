"""Painters: simulated microscopy images of one group each, with the truth of every cell. Contract, names, shortcuts.

    class Squares(Painter):                                # cellvision/simulators/squares.py
        class Config(PluginConfig):
            name: Literal["squares"] = "squares"

        def __init__(self, cfg: Config) -> None:
            self.cfg = cfg

        def paint(
            self, rng: np.random.Generator, height: int, width: int, contamination: float, kinds: tuple[str, ...]
        ) -> Painting:
            drawn_kinds = draw_kinds(rng, max(2, height * width // 2000), "squares", contamination, kinds)
            masks = np.zeros((height, width), np.int32)
            for number, (y, x) in enumerate(rng.uniform((0, 0), (height, width), (len(drawn_kinds), 2)).astype(int), 1):
                masks[y : y + 20, x : x + 20] = number     # later ones lie on top
            light = np.where(masks > 0, 0.4, 0.9) * illumination(rng, masks.shape)
            return finish(np.repeat(photograph(rng, light)[..., None], 3, axis=2), masks, drawn_kinds)

with helpers of canvas.py, and the line `"squares": "cellvision.simulators.squares:Squares"` below.
tests/simulators/test_painter_contract.py finds it. Everything random comes from the generator, so one generator state
is one image, bit for bit. Contaminating cells are painted by the host image's own optics and stain; how a cell of a
new kind looks in the images of other kinds is drawn by figures.py.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

Shortcut = Literal["cast", "scalebar", "caption"]
DEBRIS = "debris"  # a kind that no group has; it may contaminate all of them


@dataclass(frozen=True, eq=False)
class Painting:
    """An image and its truth. `cells` holds one row per label: label, kind, y, x, area_px, touches_border."""

    pixels: np.ndarray  # (H, W, 3) uint8
    masks: np.ndarray  # (H, W) int32, 0 background, labels 1..n
    cells: list[dict[str, Any]]


class Painter(Protocol):
    """What the stage `simulate` asks of a plugin, which is made as `Painter(cfg)`."""

    Config: type[PluginConfig]

    def paint(
        self, rng: np.random.Generator, height: int, width: int, contamination: float, kinds: tuple[str, ...]
    ) -> Painting:
        """One image of 2 px a side or more.

        contamination: expected share of cells of another kind, drawn from `kinds` and debris; 0 is none.
        """
        ...


PAINTERS: Registry[Painter] = Registry(
    "painter",
    {
        "neuron": "cellvision.simulators.neuron:Neuron",
        "phloem": "cellvision.simulators.tissue:Phloem",
        "rbc": "cellvision.simulators.rbc:Rbc",
        "xylem": "cellvision.simulators.tissue:Xylem",
    },
)


def add_shortcut(painting: Painting, kind: Shortcut, group_index: int) -> Painting:
    """Plant a clue that tells the group and has nothing to do with its cells. Masks and cells stay as they are.

    cast: a faint tint of the whole image. scalebar, caption: burnt in, at a corner, of a length or with a text that
    depends on the group.
    """
    if kind == "cast":
        hue = (group_index * 0.381966) % 1.0  # golden ratio: neighbouring groups get distant hues
        tint = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, 1.0))
        return replace(painting, pixels=np.rint(0.9 * painting.pixels + 0.1 * tint).astype(np.uint8))
    return replace(painting, pixels=_burn_in(painting.pixels, kind, group_index))


def _burn_in(pixels: np.ndarray, kind: Shortcut, group_index: int) -> np.ndarray:
    """A scale bar or a caption at corner `group_index` mod 4, white on dark images and black on bright ones."""
    height, width = pixels.shape[:2]
    margin = max(2, min(height, width) // 40)  # px
    if kind == "scalebar":
        mark = np.ones((max(2, height // 90), width // 10 + group_index * width // 16))
    else:
        mark = _lettering(f"{'ABCDEFGH'[group_index % 8]}-{20 + 7 * group_index}", max(8, height // 28))
    mark = mark[: height - 2 * margin, : width - 2 * margin]
    y = margin if group_index // 2 % 2 else height - margin - mark.shape[0]
    x = margin if group_index % 2 else width - margin - mark.shape[1]
    place = (slice(y, y + mark.shape[0]), slice(x, x + mark.shape[1]))
    ink = 255 if pixels.mean() < 128 else 0
    marked = pixels.copy()
    marked[place] = np.rint(pixels[place] + mark[..., None] * (ink - pixels[place].astype(float)))
    return marked


def _lettering(text: str, size_px: int) -> np.ndarray:
    """(h, w) coverage 0..1 of a line of text, cut to its ink."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=size_px)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return np.asarray(image) / 255
