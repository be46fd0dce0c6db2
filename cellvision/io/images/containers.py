"""Whether PNG, JPEG, GIF, WebP and BMP files are whole, and what their headers say: looked at before their decoders.

A decoder takes memory for the size in the header, and of a file that ends too early it may show half, silently.
"""

import struct
import zlib
from collections.abc import Callable

from cellvision.io.images import jpeg
from cellvision.io.images.pixels import ImageError, Limits, Reason, check_size, note_blank

MAX_METADATA = 1 << 20  # bytes, an inflated text chunk or colour profile larger than this is not metadata
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"pHYs", b"eXIf", b"acTL", b"fcTL", b"fdAT")
GIF_IMAGE, GIF_EXTENSION, GIF_END = 0x2C, 0x21, 0x3B
SPARE = 64  # bytes of coded data
BMP_HEADER, BMP_RAW = 40, (0, 3)  # bytes of the oldest header with a compression field; its values for plain samples


def _png(data: bytes, limits: Limits, notes: list[str]) -> bytes:
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


def _webp(data: bytes, limits: Limits, notes: list[str]) -> bytes:
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
    return data


def webp_with_less(data: bytes) -> bytes | None:
    """A WebP without the last SPARE bytes of its data, None where it has several parts or not more than that."""
    size = int.from_bytes(data[16:20], "little")
    if data[12:16] not in (b"VP8 ", b"VP8L") or size <= 2 * SPARE:
        return None
    shorter = data[12:16] + struct.pack("<I", size - SPARE) + data[20 : 20 + size - SPARE]
    return b"RIFF" + struct.pack("<I", 4 + len(shorter)) + b"WEBP" + shorter


def _gif(data: bytes, limits: Limits, notes: list[str]) -> bytes:
    """The GIF up to its trailer, to which its blocks must lead."""
    try:
        end, frames = _gif_blocks(data)
    except (IndexError, struct.error):
        raise ImageError(Reason.E_TRUNCATED, "the GIF ends before its trailer; copy the file again") from None
    if end < len(data):
        notes.append(f"{len(data) - end} bytes after the end of the picture ignored")
    if frames and frames[0] != (0, 0, *struct.unpack_from("<2H", data, 6)):
        notes.append("the first frame of the GIF does not cover its canvas")
    return data[:end]


def _gif_blocks(data: bytes) -> tuple[int, list[tuple[int, ...]]]:
    """Where the GIF ends, and the left, top, width and height of its frames."""
    position, frames = 13 + _gif_colours(data[10]), []
    while (kind := data[position]) != GIF_END:
        if kind == GIF_IMAGE:
            frames.append(struct.unpack_from("<4H", data, position + 1))
            position += 11 + _gif_colours(data[position + 9])
        elif kind == GIF_EXTENSION:
            position += 2
        else:
            raise ImageError(Reason.E_CORRUPT, f"no GIF block begins at byte {position}; copy the file again")
        while length := data[position]:
            position += length + 1
        position += 1
    return position + 1, frames


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that the flags of a GIF block announce."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0


def _bmp(data: bytes, limits: Limits, notes: list[str]) -> bytes:
    """A BMP without compression holds the rows its header names; if it holds more, or long runs of 0, that is noted."""
    begin, header = struct.unpack_from("<II", data, 10)
    if header < BMP_HEADER:
        return data
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    row = (abs(width) * bits + 31) // 32 * 4
    if compression in BMP_RAW:
        if len(data) - begin >= row * (abs(height) + 1) > 0:
            notes.append("the BMP holds more than its picture shows: it is damaged, or its size is wrong")
        note_blank(data[begin : begin + row * abs(height)], notes)
    return data


def _jpeg(data: bytes, limits: Limits, notes: list[str]) -> bytes:
    return jpeg.checked(data, notes)


CHECKS: dict[str, Callable[[bytes, Limits, list[str]], bytes]] = {
    "PNG": _png, "JPEG": _jpeg, "GIF": _gif, "WEBP": _webp, "BMP": _bmp,
}  # fmt: skip
