"""From a file to the pixels a segmenter sees: the one way, for segment, train_segmenter and export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from cellvision.cells import brightness
from cellvision.cells.brightness import Intensity, Ranges, Scale
from cellvision.core.config import Only, StageModel, option
from cellvision.core.progress import say
from cellvision.io.images.intensity import to_uint8
from cellvision.io.images.reader import Image, ImageError, Limits, Reason, read_image
from cellvision.io.rawfolder import Entry

if TYPE_CHECKING:
    import pandas as pd

GREY_OR_RGB = (1, 3)


class ReadConfig(StageModel):
    """How image files become pixels."""

    frames: Literal["auto", "first", "max", "mean"] = option(
        "auto", "planes of a stack: auto is max over z, first of t"
    )
    channels: tuple[int, ...] | None = option(
        None, "channels to keep, counted from 0; needed where there are 2 or 4 and more"
    )
    intensity: Intensity = option(
        brightness.DEFAULT,
        "whose range the crops have: the run's, each image's, each unit's, or a fixed one; 8 bits stay as they are",
    )
    range: tuple[float, ...] | None = option(
        None, "LO,HI with --intensity fixed, once or for each channel, in values of the files; full scale when absent"
    )
    trained: Scale | None = option(None, "how the images of a bundle were read, which predict gives", flag=False)
    max_megapixels: float = option(64, "larger images are refused before they are decoded", gt=0, le=10_000)
    follow_symlinks: bool = option(False, "also read links that leave the raw folder")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("range",), lambda cfg: cfg.intensity == "fixed", "with --intensity fixed"),
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        pairs = list(zip(self.range[::2], self.range[1::2], strict=False)) if self.range else []
        if self.range is not None and (len(self.range) % 2 or not pairs or not all(low < high for low, high in pairs)):
            raise ValueError("--range wants LO,HI, or such a pair for each channel, each LO below its HI")
        return self


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
    """An image and its (H, W, C) uint8 pixels with the contrast a segmenter wants. Raises ImageError."""
    image = _unchanged(entry, cfg)
    return image, to_uint8(image.pixels, brightness.seen_range(image, cfg.trained))


def crop_pixels(entry: Entry, cfg: ReadConfig, ranges: Ranges) -> NDArray[np.uint8]:
    """(H, W, C) uint8 pixels of an image on the ranges chosen for it. Raises ImageError."""
    return to_uint8(_unchanged(entry, cfg).pixels, ranges)


def _unchanged(entry: Entry, cfg: ReadConfig) -> Image:
    """The image, as it was when the folder was listed, with channels that somebody has chosen among."""
    image = read_as(entry.path, cfg)
    if image.sha256 != entry.sha256:
        raise ImageError(Reason.E_CHANGED, "the file changed after the folder was listed; run again when it is at rest")
    channels = image.pixels.shape[2]
    if cfg.channels is None and channels not in GREY_OR_RGB:
        raise ImageError(Reason.E_CHANNELS, f"{channels} channels; say which to use with --channels, such as 0,1,2")
    return image


def read_as(path: Path, cfg: ReadConfig) -> Image:
    """The frames and channels asked for, in the depth of the file. Raises ImageError."""
    limits = Limits(max_megapixels=cfg.max_megapixels)
    return read_image(path, frames=cfg.frames, channels=cfg.channels, limits=limits)


def choose_ranges(images: pd.DataFrame, used: pd.Series, cfg: ReadConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows with `measured` and (n,) those with crops -> with crop_low and crop_high, in values of the file; the facts.

    The facts are what geometry.json keeps of how the crops were made, and a bundle with it.
    """
    rows = images[used]
    rows = rows if "unit" in rows else rows.assign(unit=rows["image_id"])
    scale, ranges = brightness.choose(rows, cfg.intensity, cfg.range, cfg.trained)
    columns: dict[str, list[Any]] = {name: [None] * len(images) for name in ("crop_low", "crop_high")}
    for place, pairs in zip(np.flatnonzero(used), ranges, strict=True):
        columns["crop_low"][place], columns["crop_high"][place] = (list(ends) for ends in zip(*pairs, strict=True))
    facts = {"mode": cfg.intensity, **scale.model_dump(mode="json")}
    say(f"segment: intensities of the crops: {brightness.told(facts)}")
    return images.assign(**columns), facts


def ranges_of(row: Any) -> Ranges:
    """What becomes 0 and 255 in the crops of an image's row."""
    return tuple(zip(row["crop_low"], row["crop_high"], strict=True))
