"""Segmenter nano: Cellpose's method with a network small enough for a laptop, its weights in the package.

A few tiles tell how large the cells are, first as the image came, then at about the right scale; the whole image at the
scale where they measure `DIAMETER` gives flows and masks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.config import PluginConfig, option
from cellvision.segmenters import Segmentation, Segmenter, in_raster_order

if TYPE_CHECKING:
    import torch

REVISION = "2"  # raised when masks change
WEIGHTS = Path(__file__).parents[2] / "weights" / "nano" / "nano.safetensors"
WHOLE_PX = 1_200_000  # an image of at most so many px, at the network's scale, goes through it in one piece
TILE = 768  # px, side of the pieces of a larger one
MIRROR = 48  # px seen beyond a tile: its neighbours, or the image mirrored at its border, as in training
LARGEST_ZOOM = 4.0  # small cells are enlarged so much and no more
LOOK = 128  # px, side of a tile of the first look
LOOKS = 9  # tiles of the first look at each level
FAR_TOO_LARGE = 56.0  # px; where cells look larger, the first look is repeated at a quarter of the scale


class Nano(Segmenter):
    """3.9 M parameters; about a second for 1024 x 1024 px with 800 cells on two CPU cores."""

    class Config(PluginConfig):
        name: Literal["nano"] = "nano"
        weights: str | None = option(
            None, "file of a network fine-tuned by train_segmenter; the embedded one when absent", runtime=True
        )  # runtime: a path; the file's hash is part of the identity
        diameter: float | None = option(
            None, "px, typical cell diameter; estimated for each image when absent", ge=4, le=4000
        )
        flow_threshold: float = option(
            0.6,
            "largest accepted error of the flows of a cell that does not touch the border; 0 accepts every cell",
            ge=0,
        )
        cellprob_threshold: float = option(0.0, "log odds; lower finds more and larger cells", ge=-20, le=20)
        mirror: bool = option(True, "average with the mirrored image: a point of AP for twice the network's time")
        smallest: float = option(0.3, "drop cells below this fraction of the diameter", ge=0, le=1)
        precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto: bf16 where the device multiplies it")

    def __init__(self, cfg: Nano.Config, device: str = "auto") -> None:
        from cellvision.segmenters.nano import network as nano_network
        from cellvision.training.device import device_named

        self.cfg = cfg
        self.device = device_named(device)
        self.path = Path(cfg.weights) if cfg.weights else WEIGHTS
        self.network = nano_network.load(self.path).to(self.device)

    def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
        """(H, W, C) uint8, C in {1, 3} -> masks, with each cell's mean probability and flow error."""
        from cellvision.segmenters.nano import network as nano_network

        image = nano_network.normalise(pixels)
        diameter = self.cfg.diameter or self.estimate(image)
        masks, scores = self.at_scale(image, diameter)
        return Segmentation(masks, scores, (f"diameter {diameter:.0f} px",))

    def identity(self) -> str:
        """What the masks depend on beside the config: method, arithmetic and the content of the weight file."""
        from cellvision.training.device import autocast

        arithmetic = "bf16" if autocast(self.network, self.cfg.precision)._enabled else "fp32"
        return f"nano revision {REVISION}, {arithmetic}, sha256 {files.sha256_file(self.path)}"

    # -- first look: how large are the cells? --

    def estimate(self, image: NDArray[np.uint8]) -> float:
        """(H, W, 3) -> the typical diameter of its cells, px, from ever smaller copies until they fit a tile.

        A last look at the scale where they should measure `DIAMETER` corrects it: that is the size seen best.
        """
        level, factor = image, 1.0
        while (diameter := self._look(level)) > FAR_TOO_LARGE and min(level.shape[:2]) >= 2 * LOOK:
            level = resized(level, 0.25)
            factor = image.shape[0] / level.shape[0]
        scale = scale_of(diameter * factor)
        return self._look(resized(image, scale)) / scale

    def _look(self, image: NDArray[np.uint8]) -> float:
        """Mean over tiles of the diameter's logarithm; tiles that are sure of it count more."""
        import torch

        from cellvision.segmenters.nano.network import DIAMETER
        from cellvision.training.device import autocast

        corners = [(y, x) for y in _spread(image.shape[0]) for x in _spread(image.shape[1])]
        tiles = np.stack([_padded(image[y : y + LOOK, x : x + LOOK], LOOK, LOOK) for y, x in corners])
        with torch.inference_mode(), autocast(self.network, self.cfg.precision):
            guess, spread = self.network.diameter(self._tensor(tiles))
        weight = torch.exp(-spread.float())
        return float(DIAMETER * 2 ** ((guess.float() * weight).sum() / weight.sum()))

    # -- second look: flows and masks --

    def at_scale(
        self, image: NDArray[np.uint8], diameter: float
    ) -> tuple[NDArray[np.int32], dict[str, NDArray[np.float32]]]:
        """(H, W, 3) -> labels at the image's own size, and the scores of each."""
        from scipy.special import expit

        from cellvision.segmenters.nano import dynamics

        scale = scale_of(diameter)
        prediction = self.predict(resized(image, scale))
        flow, log_odds = prediction[:2], prediction[2]
        masks = dynamics.label(flow, log_odds, self.cfg.cellprob_threshold)
        masks = dynamics.tidy(masks, smallest=math.pi / 4 * (self.cfg.smallest * diameter * scale) ** 2)
        error = dynamics.flow_error(masks, flow)
        if self.cfg.flow_threshold:
            good = (error <= self.cfg.flow_threshold) | dynamics.at_border(masks)
            masks, error = dynamics.keep(masks, good), error[good]
        chance = np.bincount(masks.ravel(), expit(log_odds).ravel())[1:] / np.bincount(masks.ravel())[1:]
        large = dynamics.enlarge(masks, log_odds, self.cfg.cellprob_threshold, image.shape[:2])
        labels, order = in_raster_order(large)
        return labels, {"probability": chance[order - 1].astype(np.float32), "flow_error": error[order - 1]}

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) at the network's scale -> (3, H, W): flow y, flow x, log odds."""
        import cv2
        import torch

        from cellvision.segmenters.nano.network import STRIDE
        from cellvision.training.device import autocast

        height, width = image.shape[:2]
        out = np.empty((3, height, width), np.float32)
        far = MIRROR + STRIDE
        mirrored = np.asarray(cv2.copyMakeBorder(image, MIRROR, far, MIRROR, far, cv2.BORDER_REFLECT), np.uint8)
        for tile in _tiles(height, width):
            rows, columns = (span.stop - span.start for span in tile)
            sides = (math.ceil((side + 2 * MIRROR) / STRIDE) * STRIDE for side in (rows, columns))
            seen = tuple(slice(span.start, span.start + side) for span, side in zip(tile, sides, strict=True))
            with torch.inference_mode(), autocast(self.network, self.cfg.precision):
                flows = self._flows(mirrored[seen])
            inner = flows[:, MIRROR : MIRROR + rows, MIRROR : MIRROR + columns]
            out[:, tile[0], tile[1]] = inner.float().cpu().numpy()
        return out

    def _flows(self, tile: NDArray[np.uint8]) -> torch.Tensor:
        """(H, W, 3) -> (3, H, W); with `mirror` the mean of what the tile and its mirror image say."""
        flows = self.network(self._tensor(tile[None]))[0]
        if self.cfg.mirror:
            mirrored = self.network(self._tensor(np.ascontiguousarray(tile[None, :, ::-1])))[0].flip(-1)
            mirrored[1] *= -1  # the flow in x
            flows = (flows + mirrored) / 2
        return flows

    def _tensor(self, tiles: NDArray[np.uint8]) -> torch.Tensor:
        """(n, H, W, 3) uint8 -> (n, 3, H, W) float in 0..1; the bytes lie as channels_last wants them."""
        import torch

        return torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2).float() / 255


def scale_of(diameter: float) -> float:
    """What an image is multiplied by so that cells of that diameter, px, suit the network."""
    from cellvision.segmenters.nano.network import DIAMETER

    return min(DIAMETER / diameter, LARGEST_ZOOM)


def resized(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """(H, W, C) -> both sides times `scale`; areas are averaged when shrinking."""
    import cv2

    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _spread(side: int) -> list[int]:
    """Up to three corners of looks, evenly over a side."""
    count = min(math.isqrt(LOOKS), max(1, math.ceil(side / LOOK)))
    last = max(0, side - LOOK)
    return [round(last * (place + 0.5) / count) if last else 0 for place in range(count)]


def _padded(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The border repeated to the right and below."""
    rows, columns = image.shape[:2]
    return np.pad(image, ((0, height - rows), (0, width - columns), (0, 0)), mode="edge")


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Pieces that cover an image once."""
    step = TILE if height * width > WHOLE_PX else max(height, width)
    for y in range(0, height, step):
        for x in range(0, width, step):
            yield slice(y, min(y + step, height)), slice(x, min(x + step, width))
