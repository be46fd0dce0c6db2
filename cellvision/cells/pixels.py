"""From a file to the pixels a segmenter sees: the one way, for segment, train_segmenter and export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, model_validator

from cellvision.cells import brightness
from cellvision.cells.brightness import Intensity, Ranges, Scale
from cellvision.core.config import Only, StageModel, option
from cellvision.core.progress import say
from cellvision.io import channelfiles
from cellvision.io.images.intensity import to_uint8
from cellvision.io.images.pixels import Channels, picked
from cellvision.io.images.reader import Image, ImageError, Limits, Reason, read_image
from cellvision.io.rawfolder import Entry

if TYPE_CHECKING:
    import pandas as pd

GREY_OR_RGB = (1, 3)
READ_FLAGS = {
    name: f"read.{name}"
    for name in ("channels", "segment_channels", "frames", "intensity", "range", "max_megapixels", "follow_symlinks")
}


def as_channel(value: Any) -> Any:
    """A number that was typed, as a number: channels are also called by names."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


ChannelList = tuple[Annotated[int | str, BeforeValidator(as_channel)], ...]


class ReadConfig(StageModel):
    """How image files become pixels."""

    frames: Literal["auto", "first", "max", "mean"] = option(
        "auto", "planes of a stack: auto is max over z, first of t"
    )
    channels: ChannelList | None = option(
        None, "channels to keep, by number from 0 or by the file's name; needed where there are 2 or 4 and more"
    )
    segment_channels: ChannelList | None = option(
        None, "channels that the segmenter sees, while crops keep --channels, or all; those of the crops when absent"
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


@dataclass(frozen=True, eq=False)
class Loaded:
    """image: with the channels of the crops; pixels: (H, W, C) uint8 of them; seen: (H, W, 1 or 3) by the segmenter."""

    image: Image
    pixels: NDArray[np.uint8]
    seen: NDArray[np.uint8]


def load_pixels(entry: Entry, cfg: ReadConfig) -> Loaded:
    """An image in 8 bits with the contrast a segmenter wants. Raises ImageError."""
    whole = _unchanged(entry, cfg, (*(cfg.channels or ()), *(cfg.segment_channels or ())))
    image = whole if cfg.channels is None else _first(whole, len(cfg.channels))
    pixels = to_uint8(image.pixels, brightness.seen_range(image, cfg.trained))
    if cfg.segment_channels is None:
        return Loaded(image, pixels, seen_by_segmenter(pixels))
    asked = cfg.segment_channels if cfg.channels is None else range(len(cfg.channels), whole.pixels.shape[2])
    chosen = replace(whole, pixels=picked(whole.pixels, tuple(asked), whole.channel_names)[0])
    return Loaded(image, pixels, seen_by_segmenter(to_uint8(chosen.pixels, brightness.seen_range(chosen, cfg.trained))))


def crop_pixels(entry: Entry, cfg: ReadConfig, ranges: Ranges) -> NDArray[np.uint8]:
    """(H, W, C) uint8 pixels of an image on the ranges chosen for it. Raises ImageError."""
    return to_uint8(_unchanged(entry, cfg, cfg.channels or ()).pixels, ranges)


def _unchanged(entry: Entry, cfg: ReadConfig, channels: Channels) -> Image:
    """The image, as it was when the folder was listed, with channels that somebody has chosen among."""
    if entry.parts:  # whoever joins channels wants all of them
        chosen = (channels or None) if cfg.channels is not None else None
        return channelfiles.read(entry, cfg.frames, chosen, Limits(max_megapixels=cfg.max_megapixels))
    image = read_as(entry.path, cfg, channels)
    if image.sha256 != entry.sha256:
        raise ImageError(Reason.E_CHANGED, "the file changed after the folder was listed; run again when it is at rest")
    count = image.pixels.shape[2]
    if cfg.channels is None and cfg.segment_channels is None and count not in GREY_OR_RGB:
        names = f" ({', '.join(image.channel_names)})" if image.channel_names else ""
        raise ImageError(Reason.E_CHANNELS, f"{count} channels{names}; say which to use with --channels, such as 0,1,2")
    return image


def _first(image: Image, count: int) -> Image:
    """An image with its first channels alone."""
    return replace(image, pixels=image.pixels[..., :count], channel_names=image.channel_names[:count])


def read_as(path: Path, cfg: ReadConfig, channels: Channels | None = None) -> Image:
    """The frames and channels asked for, in the depth of the file; of `channels`, else of the config. ImageError."""
    limits = Limits(max_megapixels=cfg.max_megapixels)
    chosen = (channels or None) if cfg.channels is not None else None
    return read_image(path, frames=cfg.frames, channels=chosen or cfg.channels, limits=limits)


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


def names_of_channels(images: pd.DataFrame) -> list[str]:
    """The names that all of these images, (n,) rows, give their channels; none where they differ or are not known."""
    named = {tuple(names) for names in images["channel_names"] if names is not None}
    return list(named.pop()) if len(named) == 1 else []


def ranges_of(row: Any) -> Ranges:
    """What becomes 0 and 255 in the crops of an image's row."""
    return tuple(zip(row["crop_low"], row["crop_high"], strict=True))
