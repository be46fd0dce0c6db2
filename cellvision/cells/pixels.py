"""From a file to the pixels a segmenter sees: the one way, for segment, train_segmenter and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.config import StageModel, option
from cellvision.io.images.intensity import intensity_range, to_uint8
from cellvision.io.images.reader import Image, ImageError, Limits, Reason, read_image
from cellvision.io.rawfolder import Entry

GREY_OR_RGB = (1, 3)


class ReadConfig(StageModel):
    """How image files become pixels."""

    frames: Literal["auto", "first", "max", "mean"] = option(
        "auto", "planes of a stack: auto is max over z, first of t"
    )
    channels: tuple[int, ...] | None = option(
        None, "channels to keep, counted from 0; needed where there are 2 or 4 and more"
    )
    max_megapixels: float = option(64, "larger images are refused before they are decoded", gt=0, le=10_000)
    follow_symlinks: bool = option(False, "also read links that leave the raw folder")


def grey_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (H, W): luminance of three channels, else their mean."""
    import cv2

    if pixels.shape[2] == 3:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels.mean(2).astype(np.uint8)


def grey_repeated(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """(H, W, C) -> a grey image among colour ones with so many channels, any other as it is."""
    return np.repeat(pixels, channels, axis=2) if pixels.shape[2] == 1 < channels else pixels


def seen_by_segmenter(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C) -> (H, W, 1 or 3); other numbers of channels are averaged."""
    return pixels if pixels.shape[2] in GREY_OR_RGB else pixels.mean(2, keepdims=True).astype(np.uint8)


def load_pixels(entry: Entry, cfg: ReadConfig) -> tuple[Image, NDArray[np.uint8]]:
    """An image and its (H, W, C) uint8 pixels on its own recorded intensity range. Raises ImageError."""
    image = read_as(entry.path, cfg)
    if image.sha256 != entry.sha256:
        raise ImageError(Reason.E_CHANGED, "the file changed after the folder was listed; run again when it is at rest")
    return image, in_8_bits(image, cfg)


def read_as(path: Path, cfg: ReadConfig) -> Image:
    """The frames and channels asked for, in the depth of the file. Raises ImageError."""
    limits = Limits(max_megapixels=cfg.max_megapixels)
    return read_image(path, frames=cfg.frames, channels=cfg.channels, limits=limits)


def in_8_bits(image: Image, cfg: ReadConfig) -> NDArray[np.uint8]:
    """(H, W, C) uint8 of an image. ImageError where it has channels that nobody has chosen among."""
    channels = image.pixels.shape[2]
    if cfg.channels is None and channels not in GREY_OR_RGB:
        raise ImageError(Reason.E_CHANNELS, f"{channels} channels; say which to use with --channels, such as 0,1,2")
    return to_uint8(image.pixels, intensity_range(image.pixels))
