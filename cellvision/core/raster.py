"""Decoder for PNG, JPEG, JPEG 2000, GIF, WebP, AVIF, BMP, PPM, QOI through Pillow (16-bit colour: imagecodecs)."""

import io
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellvision.core.pixels import (
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

MAX_METADATA = 1 << 20  # bytes, an inflated text chunk or colour profile larger than this is not metadata
MAX_FRAMES = 10_000
COARSEST_UM = 20.0  # a larger pixel comes from a print resolution (72 dpi = 353 um), not from a microscope
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"eXIf", b"acTL", b"fcTL", b"fdAT")
JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")

_open_lock = threading.Lock()


def decode(data: bytes, kind: str, frames: Frames, limits: Limits) -> Decoded:
    """Bytes of a `kind` (a Pillow format name) -> (H, W, C) pixels; of an animation the first frame."""
    notes: list[str] = []
    if kind == "PNG":
        data = _png_checked(data, notes, limits)
    elif kind == "JPEG":
        data = _jpeg_checked(data, notes)
    elif kind == "WEBP":
        _webp_checked(data, limits)
    picture = _open(data, kind, limits)
    width, height = picture.size
    check_size(height, width, limits, channels=4)
    pixels = _deep(data, kind, notes) if _is_deep(data, kind) else _pillow(picture, frames, notes)
    check_size(pixels.shape[0], pixels.shape[1], limits, pixels.shape[2], pixels.dtype.itemsize)
    return Decoded(orient(pixels, _orientation(picture, notes), notes), _pixel_size(picture, notes), notes)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the frame header of a JPEG stream, None where there is none."""
    found = JPEG_MARKER.search(data, 2)
    while found and found.end() + 7 <= len(data):
        marker = found.group(1)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, found.end() + 3)
            return height, width
        found = JPEG_MARKER.search(data, found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big"))
    return None


def _png_checked(data: bytes, notes: list[str], limits: Limits) -> bytes:
    """The PNG with every chunk's length and CRC checked, reduced to the chunks that carry pixels and their size."""
    position, kept = 8, [data[:8]]
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise ImageError(Reason.E_TRUNCATED, "the PNG ends before its last chunk (IEND); copy the file again")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if position == 8 and (kind != b"IHDR" or length != 13):
            raise ImageError(Reason.E_CORRUPT, "the PNG does not begin with its header; copy the file again")
        if length >= 1 << 31:
            raise ImageError(Reason.E_CORRUPT, f"PNG chunk at byte {position} has no valid length; copy the file again")
        if end > len(data):
            raise ImageError(Reason.E_TRUNCATED, f"the PNG ends {end - len(data)} bytes too early; copy the file again")
        chunk = memoryview(data)[position + 4 : end - 4]
        if zlib.crc32(chunk) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ImageError(Reason.E_CORRUPT, f"PNG chunk at byte {position} fails its checksum; copy the file again")
        if position == 8:
            width, height = struct.unpack_from(">II", data, 16)
            check_size(height, width, limits)
        if kind in PIXEL_CHUNKS:
            kept.append(data[position:end])
        elif kind in (b"zTXt", b"iCCP", b"iTXt") and not _is_modest(bytes(chunk[4:])):
            notes.append(f"unreadable metadata ({kind.decode()}) ignored")
        position = end
    if position < len(data):
        notes.append(f"{len(data) - position} bytes after the end of the picture ignored")
    return b"".join(kept)


def _is_modest(chunk: bytes) -> bool:
    """Whether the compressed part of a text or profile chunk inflates, to at most MAX_METADATA bytes."""
    _, _, rest = chunk.partition(b"\0")
    start = rest.find(b"\x78")  # every zlib stream that PNG allows begins with this byte, after a few flags
    if start < 0 or start > 64:
        return True
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(rest[start:], MAX_METADATA)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


def _jpeg_checked(data: bytes, notes: list[str]) -> bytes:
    """The JPEG up to its end marker. A decoder would invent the missing part, so the marker is looked for here."""
    position = 2
    while True:
        found = JPEG_MARKER.search(data, position)
        if found is None:
            raise ImageError(Reason.E_TRUNCATED, "the JPEG ends before its end marker; copy the file again")
        marker, position = found.group(1)[0], found.end()
        if marker == 0xD9:
            break
        if marker != 0x01:  # every other marker has a body, whose length stands first
            position += int.from_bytes(data[position : position + 2], "big")
    if position < len(data):
        notes.append(f"{len(data) - position} bytes after the end of the picture ignored")
    return data[:position]


def _webp_checked(data: bytes, limits: Limits) -> None:
    """Length and canvas of a WebP: its decoder takes memory for the canvas before anybody can ask for the size."""
    if len(data) < 30 or struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ImageError(Reason.E_TRUNCATED, "the WebP is shorter than its header says; copy the file again")
    if data[12:16] == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    check_size(height, width, limits)


def _open(data: bytes, kind: str, limits: Limits) -> Any:
    """The opened, not yet decoded, picture; Pillow's own limit gives way to ours."""
    import PIL.Image

    with _open_lock:
        theirs, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, max(1, int(limits.max_megapixels * 1e6))
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
            PIL.Image.MAX_IMAGE_PIXELS = theirs


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
