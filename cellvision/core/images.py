"""The one image reader: a file of any kind -> (H, W, C) pixels in their own depth, or an ImageError with a reason.

The file is read once and hashed, its first bytes decide what it is, its size is checked before anything is decoded, and
a process that may be stopped decodes it (`decoder`).
`frames`: "auto" takes the maximum over depth and over pages that nothing describes, and the first time point or
animation frame; "first" takes the first of everything; "max" and "mean" reduce depth, time, pages and animations alike.
"""

import hashlib
import logging
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cellvision.core import decoder, raster, tiff
from cellvision.core.pixels import Array, Decoded, Frames, ImageError, Limits, Reason, by_rows, fill_nonfinite

__all__ = [
    "Frames", "Image", "ImageError", "Limits", "Reason", "intensity_range", "pixel_hash", "read_image", "to_uint8",
]  # fmt: skip

MAX_SAMPLED = 1 << 22  # pixels per channel that an intensity range looks at
SUFFIXES = {
    "PNG": {".png", ".apng"}, "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "TIFF": {".tif", ".tiff", ".btf", ".lsm"},
    "GIF": {".gif"}, "WEBP": {".webp"}, "BMP": {".bmp", ".dib"}, "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
    "JPEG2000": {".jp2", ".j2k", ".jpf", ".jpx", ".j2c"}, "AVIF": {".avif", ".avifs"}, "QOI": {".qoi"},
}  # fmt: skip
MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"qoif": "QOI",
    b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000", b"\xff\x4f\xff\x51": "JPEG2000",
}  # fmt: skip
FOREIGN = {
    b"ZISRAWFILE": "a Zeiss CZI", b"\x70\0\0\0": "a Leica LIF", b"\xda\xce\xbe\x0a": "a Nikon ND2",
    b"\xd0\xcf\x11\xe0": "an OLE (OIB, ZVI, Office)", b"\x89HDF": "an HDF5", b"PK\x03\x04": "a zip",
    b"\x1f\x8b": "a gzip", b"%PDF": "a PDF",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture; `pixels` are (H, W, C) in the depth of the file."""

    pixels: Array
    dtype: str
    pixel_size_um: float | None
    notes: tuple[str, ...]
    sha256: str  # of the file's bytes


def read_image(
    path: str | os.PathLike[str],
    *,
    frames: Frames = "auto",
    channels: Sequence[int] | None = None,
    limits: Limits | None = None,
) -> Image:
    """Read any supported file as (H, W, C); raises ImageError."""
    limits = limits or Limits()
    with _boundary(Reason.E_IO):
        data = _read_bytes(Path(path), limits)
    kind = _sniff(data)
    try:
        decoded = decoder.decode(data, kind, frames, channels, limits)
    except MemoryError:
        raise ImageError(Reason.E_TOO_LARGE, decoder.NO_MEMORY) from None
    suffix = Path(path).suffix.lower()
    if suffix and suffix not in SUFFIXES[kind]:
        decoded.notes.append(f"a {kind} file in spite of its name")
    notes = tuple(dict.fromkeys(decoded.notes))
    return Image(
        decoded.pixels, decoded.pixels.dtype.name, decoded.pixel_size_um, notes, hashlib.sha256(data).hexdigest()
    )


def decode_bytes(data: bytes, kind: str, frames: Frames, channels: Sequence[int] | None, limits: Limits) -> Decoded:
    """What `decoder` runs in its own process: bytes of a `kind` -> pixels, finite, and the channels asked for."""
    with _boundary(Reason.E_CORRUPT):
        decoded = tiff.decode(data, frames, limits) if kind == "TIFF" else raster.decode(data, kind, frames, limits)
    with _boundary(Reason.E_INTERNAL):
        return _finish(decoded, channels, limits)


def intensity_range(pixels: Array, percentiles: tuple[float, float] = (0.1, 99.9)) -> tuple[tuple[float, float], ...]:
    """(H, W, C) -> the (low, high) of each channel that `to_uint8` maps to 0 and 255; 8-bit data keeps (0, 255).

    Where the percentiles coincide (a few bright cells on a flat background) the minimum and maximum are taken.
    """
    if pixels.dtype == np.uint8:
        return ((0.0, 255.0),) * pixels.shape[-1]
    flat = pixels.reshape(-1, pixels.shape[-1])
    sample = flat[:: max(1, len(flat) // MAX_SAMPLED)]
    ranges = []
    for channel in range(flat.shape[1]):
        low, high = np.percentile(sample[:, channel].astype(np.float64), percentiles)
        if not low < high:
            low, high = flat[:, channel].min(), flat[:, channel].max()
        ranges.append((float(low), float(high)))
    return tuple(ranges)


def to_uint8(pixels: Array, ranges: Sequence[tuple[float, float]]) -> Array:
    """(H, W, C) -> uint8 (H, W, C): low to 0, high to 255, clipped; a constant channel is 0, 8-bit data stays."""
    if pixels.dtype == np.uint8:
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


@contextmanager
def _boundary(reason: Reason) -> Iterator[None]:
    """Whatever foreign data makes a library do ends here as an ImageError; its warnings and log lines stay silent."""
    logger = logging.getLogger("tifffile")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # the decode boundary
        text = f"{type(error).__name__}: {error}"[:200]
        if isinstance(error, EOFError) or "truncated" in text.lower():
            reason = Reason.E_TRUNCATED if reason is Reason.E_CORRUPT else reason
        advice = {
            Reason.E_IO: "check that it exists and may be read",
            Reason.E_INTERNAL: "please report this file",
        }.get(reason, "open it in ImageJ and export it again")
        raise ImageError(reason, f"cannot be read ({text}); {advice}") from error
    finally:
        logger.disabled = disabled


def _read_bytes(path: Path, limits: Limits) -> bytes:
    """The bytes of a regular file; one that changes meanwhile is read once more, then refused."""
    for _ in range(2):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, so that a FIFO cannot block
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise ImageError(Reason.E_UNSAFE, "not a regular file (a pipe, device or folder); remove it")
            if before.st_size > limits.max_file_mb * 1e6:
                raise ImageError(
                    Reason.E_TOO_LARGE,
                    f"{before.st_size / 1e6:.0f} MB on disk, the limit is {limits.max_file_mb:g} MB; raise max_file_mb",
                )
            data = file.read(before.st_size + 1)
            after = os.fstat(descriptor)
        if len(data) == before.st_size and (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return data
    raise ImageError(Reason.E_CHANGED, "the file changed while it was read; wait until it is written, then run again")


def _sniff(data: bytes) -> str:
    """The format by the first bytes, as Pillow names it."""
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if data[:2] == b"BM" and data[14:18] in [size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124)]:
        return "BMP"
    if data[:2] in (b"P4", b"P5", b"P6") and data[2:3].isspace():
        return "PPM"
    foreign = next((name for magic, name in FOREIGN.items() if data.startswith(magic)), None)
    found = f"{foreign} file" if foreign else "empty" if not data else "no image format begins with these bytes"
    raise ImageError(Reason.E_NOT_IMAGE, f"{found}; expected TIFF, PNG, JPEG or the like, export it as OME-TIFF")


def _finish(decoded: Decoded, channels: Sequence[int] | None, limits: Limits) -> Decoded:
    """Pick channels, fill what is not finite."""
    pixels = decoded.pixels
    if channels is not None:
        if not channels or not all(0 <= channel < pixels.shape[-1] for channel in channels):
            raise ImageError(
                Reason.E_CHANNELS,
                f"channels {tuple(channels)} asked for, the image has 0 to {pixels.shape[-1] - 1}; choose among them",
            )
        pixels = pixels[..., list(channels)]
    if pixels.dtype.kind == "f":
        pixels = fill_nonfinite(pixels, limits, decoded.notes)
    if pixels.dtype.name not in ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32", "float64"):
        raise ImageError(
            Reason.E_DTYPE,
            f"samples are {pixels.dtype}, expected 8- to 32-bit integers or floats; convert before export",
        )
    return replace(decoded, pixels=np.ascontiguousarray(pixels))
