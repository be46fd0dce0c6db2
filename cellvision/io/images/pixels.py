"""What the decoders share: reason codes, limits, and what turns decoded samples into (H, W, C) pixels."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import CellvisionError

Array = NDArray[Any]
Channels = Sequence[int | str]  # by number, from 0, or by name
Frames = Literal["auto", "first", "max", "mean"]
SHORTEST_BLANK = 512  # bytes
STRETCH_WHOLE = 4_000_000  # samples; of larger images every sixteenth pixel gives the percentiles
BLOCK = 1 << 20  # samples that are worked on at once where that needs wider numbers


class Reason(StrEnum):
    """Why an input file ended in its row of `images.parquet`; every file has exactly one."""

    OK = "OK"
    OK_NOTE = "OK_NOTE"  # read, with something the notes tell
    E_NOT_IMAGE = "E_NOT_IMAGE"
    E_TRUNCATED = "E_TRUNCATED"  # the file ends too early
    E_CORRUPT = "E_CORRUPT"  # the file is whole, its content is not readable
    E_DTYPE = "E_DTYPE"
    E_TOO_LARGE = "E_TOO_LARGE"
    E_TOO_SMALL = "E_TOO_SMALL"
    E_NAN = "E_NAN"
    E_CHANNELS = "E_CHANNELS"
    E_IO = "E_IO"
    E_CHANGED = "E_CHANGED"  # the file changed while it was read
    E_DUPLICATE = "E_DUPLICATE"
    E_NO_CELLS = "E_NO_CELLS"
    E_NO_MASK = "E_NO_MASK"  # masks were given, none or no single one for this image
    E_UNSAFE = "E_UNSAFE"
    E_INTERNAL = "E_INTERNAL"


class ImageError(CellvisionError):
    """A file that cannot be used: `reason` is the code for its row, the text is one line for a person."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What a picture may be. All but the NaN fraction and the time are checked before anything is decoded."""

    max_megapixels: float = 64  # height x width of one plane
    max_nan_fraction: float = 0.05  # NaN or infinite samples; up to this they are filled with the local median
    min_side: int = 8  # px
    max_file_mb: float = 4096  # bytes on disk, since a file is read whole
    max_decoded_mb: float = 2048  # height x width x channels x bytes per sample
    max_channels: int = 256
    max_seconds: float = 8  # of processor time that decoding may take; and
    max_seconds_per_mb: float = 2  # as many more for every MB on disk

    def seconds(self, size: int) -> float:
        """After how many seconds of processor time decoding `size` bytes is stopped."""
        return self.max_seconds + self.max_seconds_per_mb * size / 1e6


@dataclass
class Decoded:
    """What a decoder hands back: (H, W, C) pixels, and what a person should know about how they came to be."""

    pixels: Array
    pixel_size_um: float | None = None
    notes: list[str] = field(default_factory=list)
    full_scale: float | None = None  # the value of most light, where the metadata tell less than the samples can hold
    channel_names: list[str] = field(default_factory=list)  # one a channel, or none


def number_of(channel: int | str, names: Sequence[str]) -> int:
    """A channel by its number, or by the name that the file gives it; ImageError where it has no such name."""
    if isinstance(channel, int):
        return channel
    plain = [name.casefold() for name in names]
    if channel.casefold() in plain:
        return plain.index(channel.casefold())
    there = f"its channels are {', '.join(names)}" if names else "it does not name its channels; give numbers from 0"
    raise ImageError(Reason.E_CHANNELS, f"no channel {channel!r} in this file: {there}")


def picked(pixels: Array, channels: Channels, names: Sequence[str]) -> tuple[Array, list[str]]:
    """(H, W, C) -> (H, W, len(channels)) in the order asked for, and their names; ImageError where one is missing."""
    numbers = [number_of(channel, names) for channel in channels]
    if not numbers or not all(0 <= number < pixels.shape[-1] for number in numbers):
        raise ImageError(
            Reason.E_CHANNELS,
            f"channels {tuple(channels)} asked for, the image has 0 to {pixels.shape[-1] - 1}; choose among them",
        )
    return pixels[..., numbers], [names[number] for number in numbers] if names else []


def check_size(height: int, width: int, limits: Limits, channels: int = 1, itemsize: int = 1) -> None:
    """Raise E_TOO_SMALL, E_TOO_LARGE or E_CHANNELS for a picture outside the limits; called before decoding."""
    if min(height, width) < max(1, limits.min_side):
        raise ImageError(
            Reason.E_TOO_SMALL,
            f"{width} x {height} px, expected at least {limits.min_side} px a side; use the full image",
        )
    if height * width > limits.max_megapixels * 1e6:
        raise ImageError(
            Reason.E_TOO_LARGE,
            f"{width} x {height} px is {height * width / 1e6:.0f} MP, the limit is {limits.max_megapixels:g} MP;"
            " cut it into tiles or raise max_megapixels",
        )
    if not 1 <= channels <= limits.max_channels:
        raise ImageError(
            Reason.E_CHANNELS, f"{channels} channels, expected 1 to {limits.max_channels}; export fewer channels"
        )
    if height * width * channels * itemsize > limits.max_decoded_mb * 1e6:
        raise ImageError(
            Reason.E_TOO_LARGE,
            f"{width} x {height} px x {channels} channels need {height * width * channels * itemsize / 1e6:.0f} MB,"
            f" the limit is {limits.max_decoded_mb:g} MB; export fewer channels or raise max_decoded_mb",
        )


def note_blank(samples: bytes, notes: list[str]) -> None:
    """Say where a run of zero bytes covers a sixteenth or more of uncompressed samples: lost in copying, or black."""
    if bytes(max(SHORTEST_BLANK, len(samples) // 16)) in samples:
        notes.append("a sixteenth or more of the picture is one run of zeros: black, or lost when the file was copied")


def reduce_planes(planes: Iterable[Array], frames: Frames) -> Array:
    """(H, W, C) planes of one shape -> (H, W, C): pixel-wise maximum, or mean rounded to the dtype of the planes."""
    total: Array | None = None
    first: Array | None = None
    count = 0
    for plane in planes:
        count += 1
        if first is None or total is None:
            first = plane
            total = plane.astype(np.float64) if frames == "mean" else plane
        elif plane.shape != first.shape or plane.dtype != first.dtype:
            raise ImageError(
                Reason.E_CORRUPT,
                f"plane {count} is {plane.shape} {plane.dtype}, the first is {first.shape} {first.dtype};"
                " export planes of one kind",
            )
        else:
            total = total + plane if frames == "mean" else np.fmax(total, plane)
    if first is None or total is None:
        raise ImageError(Reason.E_CORRUPT, "the file holds no plane, expected at least one; export it again")
    if frames != "mean":
        return total
    mean = total / count
    return (np.rint(mean) if first.dtype.kind in "iu" else mean).astype(first.dtype)


def orient(pixels: Array, orientation: int, notes: list[str]) -> Array:
    """(H, W, C) stored pixels -> upright pixels; `orientation` is the EXIF / TIFF tag 274, 1 to 8."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }.get(orientation)
    if turned is None:
        return pixels
    notes.append(f"orientation tag {orientation} applied")
    return np.ascontiguousarray(turned(pixels))


def composite(pixels: Array, notes: list[str]) -> Array:
    """(H, W, C + alpha) -> (H, W, C) on the commonest visible border colour, so that hidden colours stay hidden."""
    colour, alpha = pixels[..., :-1], pixels[..., -1]
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    clear = alpha < opaque
    if not clear.any():
        return np.ascontiguousarray(colour)
    background = _border_colour(colour, clear)

    def blend(block: Array) -> Array:
        weight = np.clip(block[..., -1:] / np.float64(opaque), 0, 1)
        mixed = weight * block[..., :-1] + (1 - weight) * background
        mixed = (np.rint(mixed) if pixels.dtype.kind in "iu" else mixed).astype(pixels.dtype)
        return np.where(block[..., -1:] < opaque, mixed, block[..., :-1])

    notes.append(f"alpha is not opaque: {clear.sum()} pixels composited on the border colour")
    return by_rows(blend, pixels)


def _border_colour(colour: Array, clear: Array) -> Array:
    """(H, W, C), (H, W) -> (C,) the commonest colour of the opaque border pixels, else of the opaque ones."""
    edge = np.zeros(clear.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    visible = next((where for where in (edge & ~clear, ~clear) if where.any()), None)
    if visible is None:
        return np.zeros(colour.shape[-1], colour.dtype)
    shown = np.flatnonzero(visible)
    shown = shown[:: max(1, len(shown) // BLOCK)]
    colours, counts = np.unique(colour.reshape(-1, colour.shape[-1])[shown], axis=0, return_counts=True)
    return colours[counts.argmax()]


def by_rows(change: Callable[[Array], Array], pixels: Array) -> Array:
    """`change` of (H, W, C), which treats every pixel alike, a block of rows at a time: its copies stay small."""
    step = max(1, BLOCK // max(1, math.prod(pixels.shape[1:])))
    first = change(pixels[:step])
    result = np.empty((len(pixels), *first.shape[1:]), first.dtype)
    result[:step] = first
    for start in range(step, len(pixels), step):
        result[start : start + step] = change(pixels[start : start + step])
    return result


def fill_nonfinite(pixels: Array, limits: Limits, notes: list[str]) -> Array:
    """(H, W, C) floats; NaN and infinite samples become the median of the finite ones around them (5x5, then wider)."""
    bad = ~np.isfinite(pixels)
    count = int(bad.sum())
    if not count:
        return pixels
    fraction = count / bad.size
    if fraction > limits.max_nan_fraction:
        raise ImageError(
            Reason.E_NAN,
            f"{fraction:.1%} of the samples are NaN or infinite, the limit is {limits.max_nan_fraction:.1%};"
            " check the export",
        )
    clean = np.where(bad, np.nan, pixels)
    result = np.array(pixels)
    for channel in range(pixels.shape[-1]):
        rows, columns = np.nonzero(bad[..., channel])
        result[rows, columns, channel] = _local_median(clean[..., channel], rows, columns)
    notes.append(f"{count} NaN or infinite samples ({fraction:.2%}) filled with the local median")
    return result


def _local_median(plane: Array, rows: Array, columns: Array) -> Array:
    """(H, W) with NaN, (n,) rows and columns of the NaN -> (n,) medians of the nearest window that holds a number."""
    values = np.full(len(rows), np.nan, plane.dtype)
    for radius in (2, 4, 8):
        todo = np.flatnonzero(np.isnan(values))
        offsets = np.arange(-radius, radius + 1)
        padded = np.pad(plane, radius, constant_values=np.nan)
        for chunk in np.array_split(todo, math.ceil(len(todo) / 32768)) if len(todo) else ():
            y = rows[chunk, None, None] + offsets[:, None] + radius
            x = columns[chunk, None, None] + offsets + radius
            window = padded[y, x].reshape(len(chunk), -1)
            has_number = ~np.isnan(window).all(axis=1)
            values[chunk[has_number]] = np.nanmedian(window[has_number], axis=1)
    if np.isnan(values).any():
        finite = plane[~np.isnan(plane)]
        values[np.isnan(values)] = np.median(finite) if finite.size else 0
    return values


def stretched(pixels: NDArray[np.uint8], percentiles: tuple[float, float]) -> NDArray[np.uint8]:
    """(H, W, C) -> the same with two percentiles as 0 and 255; channels share the range, so colours stay themselves."""
    low, high = np.percentile(pixels[::4, ::4] if pixels.size > STRETCH_WHOLE else pixels, percentiles)
    scaled = (np.arange(256) - low) / max(high - low, 1.0) * 255
    return np.clip(scaled.round(), 0, 255).astype(np.uint8)[pixels]
