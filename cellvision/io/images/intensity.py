"""Intensities: the range of a channel, its mapping to 8 bits, and a hash of the picture itself."""

import hashlib
from collections.abc import Sequence

import numpy as np

from cellvision.io.images.pixels import Array, by_rows

MAX_SAMPLED = 1 << 22  # pixels per channel that an intensity range looks at
EIGHT_BITS = (0.0, 255.0)
BITS = (8, 10, 12, 14, 16, 32)  # of the cameras there are
DEPTHS = ("uint8", "uint16", "uint32", "int8", "int16", "int32")  # types of whole numbers


def percentiles(pixels: Array, ends: tuple[float, float] = (0.1, 99.9)) -> tuple[tuple[float, float], ...]:
    """(H, W, C) -> two percentiles of each channel, minimum and maximum where they coincide.

    They do where a few bright cells lie on a flat background.
    """
    flat = pixels.reshape(-1, pixels.shape[-1])
    sample = flat[:: max(1, len(flat) // MAX_SAMPLED)]
    ranges = []
    for channel in range(flat.shape[1]):
        low, high = np.percentile(sample[:, channel].astype(np.float64), ends)
        if not low < high:
            low, high = flat[:, channel].min(), flat[:, channel].max()
        ranges.append((float(low), float(high)))
    return tuple(ranges)


def intensity_range(pixels: Array, ends: tuple[float, float] = (0.1, 99.9)) -> tuple[tuple[float, float], ...]:
    """(H, W, C) -> the (low, high) of each channel by the image alone: its percentiles; 8-bit data keeps (0, 255)."""
    return (EIGHT_BITS,) * pixels.shape[-1] if pixels.dtype == np.uint8 else percentiles(pixels, ends)


def full_scale(largest: float, dtype: str) -> float:
    """The value that stands for the most light in files of a type whose largest value is known."""
    if dtype == "uint8":
        return EIGHT_BITS[1]
    if dtype not in DEPTHS and largest <= 1:
        return 1.0
    return next((2.0**bits - 1 for bits in BITS if largest <= 2.0**bits - 1), float(largest))


def to_uint8(pixels: Array, ranges: Sequence[tuple[float, float]]) -> Array:
    """(H, W, C) -> uint8 (H, W, C): low to 0, high to 255, clipped; constant is 0, 8 bits on (0, 255) stay."""
    if pixels.dtype == np.uint8 and all(tuple(pair) == EIGHT_BITS for pair in ranges):
        return pixels

    def mapped(block: Array) -> Array:
        result = np.zeros(block.shape, np.uint8)
        for channel, (low, high) in enumerate(ranges):
            if low < high:
                values = np.clip(block[..., channel].astype(np.float64), low, high)
                values = (values / 2 - low / 2) / (high / 2 - low / 2)  # halved, so that a full float range fits
                result[..., channel] = np.rint(values * 255)
        return result

    return by_rows(mapped, pixels)


def pixel_hash(pixels: Array) -> str:
    """SHA-256 of the picture itself: equal for equal values, whatever the format, the depth, or grey kept as RGB."""
    if pixels.shape[-1] == 3 and (pixels[..., 1:] == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if pixels.dtype.kind == "f":
        whole = bool(np.all((pixels == np.rint(pixels)) & (np.abs(pixels) < 2**31)))
        pixels = pixels.astype(np.int64) if whole else pixels.astype("<f8") + 0.0
    if pixels.dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        small = next((t for t in ("u1", "<u2", "<i4") if np.iinfo(t).min <= low and high <= np.iinfo(t).max), "<i8")
        pixels = pixels.astype(small)
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
