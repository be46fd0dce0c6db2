"""Decoder for PNG, JPEG, JPEG 2000, GIF, WebP, AVIF, BMP, PPM, QOI through Pillow (16-bit colour: imagecodecs)."""

import contextlib
import io
import re
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellvision.io.images import containers, jpeg
from cellvision.io.images.pixels import (
    Array,
    Decoded,
    Frames,
    ImageError,
    Limits,
    Reason,
    check_size,
    composite,
    orient,
    reduce_planes,
)

MAX_FRAMES = 10_000
COARSEST_UM = 20.0  # a larger pixel comes from a print resolution (72 dpi = 353 um), not from a microscope
MISSING_GREY = 128  # what a JPEG decoder paints where nothing is left to decode

_open_lock = threading.Lock()


def decode(data: bytes, kind: str, frames: Frames, limits: Limits, labels: bool = False) -> Decoded:
    """Bytes of a `kind` (a Pillow format name) -> (H, W, C) pixels; of an animation the first frame.

    `labels`: numbers as they are stored, without the colours of a palette.
    """
    notes: list[str] = []
    data = containers.CHECKS[kind](data, limits, notes) if kind in containers.CHECKS else data
    picture = _open(data, kind, limits)
    width, height = picture.size
    check_size(height, width, limits, channels=4)
    if labels and picture.mode == "P":
        pixels = np.asarray(picture)[..., None]
    else:
        pixels = _deep(data, kind, notes) if _is_deep(data, kind) else _pillow(picture, frames, notes)
    check_size(pixels.shape[0], pixels.shape[1], limits, pixels.shape[2], pixels.dtype.itemsize)
    if not getattr(picture, "is_animated", False):
        _check_use(data, kind, pixels, limits, notes)
    return Decoded(orient(pixels, _orientation(picture, notes), notes), _pixel_size(picture, notes), notes)


def _check_use(data: bytes, kind: str, pixels: Array, limits: Limits, notes: list[str]) -> None:
    """Decode again with more and with less coded data: a whole picture ignores what is added and needs what it has."""

    def same(other: bytes) -> bool:
        return np.array_equal(_pillow(_open(other, kind, limits), "first", []), pixels)

    if kind == "JPEG" and not same(jpeg.with_more(data)):
        raise ImageError(Reason.E_TRUNCATED, "a part of the JPEG's picture is missing; copy the file again")
    less = {"JPEG": jpeg.with_less, "WEBP": containers.webp_with_less}.get(kind, lambda data: None)(data)
    if less is None or (pixels[-8:, -8:] == MISSING_GREY).all():
        return
    with contextlib.suppress(OSError, ImageError):  # as it should be
        if same(less):
            notes.append(f"the {kind} holds more than its picture shows: it is damaged, or its size is wrong")


def _open(data: bytes, kind: str, limits: Limits) -> Any:
    """The opened, not yet decoded, picture; Pillow's own limit gives way to ours."""
    import PIL.Image

    with _open_lock:
        pillow_limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, max(1, int(limits.max_megapixels * 1e6))
        try:
            return PIL.Image.open(io.BytesIO(data), formats=(kind,))
        except PIL.UnidentifiedImageError as error:
            raise ImageError(
                Reason.E_CORRUPT, f"begins like a {kind} but its header cannot be read; export it again"
            ) from error
        except PIL.Image.DecompressionBombError as error:
            raise ImageError(
                Reason.E_TOO_LARGE,
                f"more than twice the limit of {limits.max_megapixels:g} MP; cut it into tiles or raise max_megapixels",
            ) from error
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = pillow_limit


def _pillow(picture: Any, frames: Frames, notes: list[str]) -> Array:
    """(H, W, C) of the first frame, or of all frames reduced."""
    if not getattr(picture, "is_animated", False):
        return _samples(picture, notes)
    if frames in ("auto", "first"):
        notes.append("animation: only its first frame is used")
        return _samples(picture, notes)
    notes.append(f"animation: {frames} over its frames")
    return reduce_planes(_animation(picture, notes), frames)


def _animation(picture: Any, notes: list[str]) -> Iterator[Array]:
    for index in range(MAX_FRAMES + 1):
        if index == MAX_FRAMES:
            raise ImageError(
                Reason.E_TOO_LARGE, f"the animation has more than {MAX_FRAMES} frames; export the frames as images"
            )
        try:
            picture.seek(index)
        except EOFError:
            return
        yield _samples(picture.convert("RGBA"), notes)


def _samples(picture: Any, notes: list[str]) -> Array:
    """A Pillow picture of any mode -> (H, W, C) without alpha, palette or printing colours, in the depth it has."""
    mode = picture.mode
    if mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)[..., None]
    if mode in ("I", "F"):
        values = np.asarray(picture)
        return (values.astype(np.uint16) if picture.format == "PPM" else values)[..., None]
    if mode == "1":
        picture = picture.convert("L")
    elif mode in ("P", "PA"):
        grey = _is_grey(picture)
        alpha = mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if alpha else "RGB")
        if grey:
            picture = picture.convert("LA" if alpha else "L")
    elif mode in ("L", "RGB") and "transparency" in picture.info:
        picture = picture.convert("LA" if mode == "L" else "RGBA")
    elif mode in ("La", "RGBa"):
        picture = picture.convert("LA" if mode == "La" else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
        if mode != "RGBX":
            notes.append(f"{mode} converted to RGB")
    pixels = np.atleast_3d(np.asarray(picture))
    return composite(pixels, notes) if picture.mode in ("LA", "RGBA") else pixels


def _is_grey(picture: Any) -> bool:
    palette = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _is_deep(data: bytes, kind: str) -> bool:
    """Whether the samples are colour with more than 8 bits, which Pillow would cut to 8."""
    if kind == "PNG":
        return data[24] == 16 and data[25] in (2, 4, 6)
    if kind == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        components = struct.unpack_from(">H", data, start + 40)[0] if start >= 0 else 0
        return components > 1 and (data[start + 42] & 0x7F) >= 8
    if kind == "PPM":
        header = re.match(rb"P6(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)", data)
        if header and int(header.group(1)) > 255:
            raise ImageError(
                Reason.E_DTYPE, "16-bit colour PPM would be cut to 8 bits; expected 8 bits, export PNG or TIFF"
            )
    return False


def _deep(data: bytes, kind: str, notes: list[str]) -> Array:
    """(H, W, C) uint16 of a 16-bit grey-alpha, RGB or RGBA file."""
    import imagecodecs

    pixels = imagecodecs.png_decode(data) if kind == "PNG" else imagecodecs.jpeg2k_decode(data)
    alpha = pixels.shape[-1] in (2, 4) and kind == "PNG"
    return composite(pixels, notes) if alpha else pixels


def _orientation(picture: Any, notes: list[str]) -> int:
    try:
        value = picture.getexif().get(0x0112, 1)
    except (ArithmeticError, AttributeError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError):
        value = None
    except struct.error:
        value = None
    if not isinstance(value, int) or not 1 <= value <= 8:
        notes.append("unreadable EXIF metadata ignored")
        return 1
    return value


def _pixel_size(picture: Any, notes: list[str]) -> float | None:
    """um per pixel from the dots per inch, where they are fine enough to be a microscope's and not a printer's."""
    dots = picture.info.get("dpi")
    try:
        size = 25_400 / float(dots[0]) if dots else None
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    if size is None or not 0 < size <= COARSEST_UM:
        return None
    notes.append(f"pixel size {size:.4g} um taken from dots per inch")
    return size
