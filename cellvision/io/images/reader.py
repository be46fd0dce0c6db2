"""The one image reader: a file of any kind -> (H, W, C) pixels in their own depth, or an ImageError with a reason.

The file is read once and hashed, its first bytes decide what it is, its size is checked before anything is decoded, and
a process that may be stopped decodes it (`process`).
`frames`: "auto" takes the maximum over depth and over pages that nothing describes, and the first time point or
animation frame; "first" takes the first of everything; "max" and "mean" reduce depth, time, pages and animations alike.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cellvision.io.images import process
from cellvision.io.images.decode import boundary
from cellvision.io.images.pixels import Array, Channels, Frames, ImageError, Limits, Reason

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
    full_scale: float | None = None  # the value of most light, where the metadata tell less than the type can hold
    channel_names: tuple[str, ...] = ()


def read_image(
    path: str | os.PathLike[str],
    *,
    frames: Frames = "auto",
    channels: Channels | None = None,
    limits: Limits | None = None,
    labels: bool = False,
) -> Image:
    """Read any supported file as (H, W, C), or a label map, whose numbers are no colours; raises ImageError."""
    limits = limits or Limits()
    with boundary(Reason.E_IO):
        data = _read_bytes(Path(path), limits)
    kind = _sniff(data)
    try:
        decoded = process.decode(data, kind, frames, channels, limits, labels)
    except MemoryError:
        raise ImageError(Reason.E_TOO_LARGE, process.NO_MEMORY) from None
    suffix = Path(path).suffix.lower()
    if suffix and suffix not in SUFFIXES[kind]:
        decoded.notes.append(f"a {kind} file in spite of its name")
    notes = tuple(dict.fromkeys(decoded.notes))
    return Image(
        decoded.pixels, decoded.pixels.dtype.name, decoded.pixel_size_um, notes, hashlib.sha256(data).hexdigest(),
        decoded.full_scale, tuple(decoded.channel_names),
    )  # fmt: skip


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
    content = f"{foreign} file" if foreign else "empty" if not data else "no image format begins with these bytes"
    raise ImageError(Reason.E_NOT_IMAGE, f"{content}; expected TIFF, PNG, JPEG or the like, export it as OME-TIFF")
