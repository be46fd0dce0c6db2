"""What a JPEG holds and whether it is whole: a decoder paints what is missing grey and says nothing (ITU-T T.81)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from cellvision.io.images.pixels import ImageError, Reason

MARKER = re.compile(rb"\xff+([^\x00\xff])")
SCAN, END, BARE = 0xDA, 0xD9, 0x01
RESTARTS = range(0xD0, 0xD8)
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
COEFFICIENTS = 64
MORE = bytes(range(1, 0xF0))  # coded data
SPARE = 64  # bytes of coded data


def size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the frame header of a JPEG stream, None where there is none."""
    for marker, _, body, _ in _parts(data):
        if marker in FRAMES and body + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, body + 3)
            return height, width
    return None


def checked(data: bytes, notes: list[str]) -> bytes:
    """The JPEG up to its end marker; ImageError where that or one of its scans is missing."""
    missing: dict[tuple[int, int], int] = {}  # component, coefficient -> its low bits that are still to come
    marker = end = restarts = 0
    for marker, _, body, end in _parts(data):
        if marker == SCAN:
            missing |= _bits_left(data[body + 2 : end])
            restarts = 0
        elif marker in RESTARTS:
            if marker != RESTARTS[restarts % 8]:
                raise ImageError(Reason.E_CORRUPT, "a stretch of the JPEG is missing; copy the file again")
            restarts += 1
    if marker != END:
        raise ImageError(Reason.E_TRUNCATED, "the JPEG ends before its end marker; copy the file again")
    components = {component for component, _ in missing}
    if any(missing.get((component, k), 1) for component in components for k in range(COEFFICIENTS)):
        raise ImageError(Reason.E_TRUNCATED, "the JPEG ends before its last scan; copy the file again")
    if end < len(data):
        notes.append(f"{len(data) - end} bytes after the end of the picture ignored")
    return data[:end]


def with_more(data: bytes) -> bytes:
    """The JPEG with coded data added behind every stretch of them: a picture that is whole has no use for them.

    Behind the last stretch of a scan one more follows, with the restart marker that would begin it.
    """
    parts, start, restarts = [], 0, 0
    for _, end, marker in _stretches(data):
        parts += [data[start:end], MORE]
        start = end
        if marker in RESTARTS:
            restarts += 1
        else:
            parts += [bytes([0xFF, RESTARTS[restarts % 8]]), MORE]
            restarts = 0
    return b"".join([*parts, data[start:]])


def with_less(data: bytes) -> bytes | None:
    """The JPEG without the last SPARE bytes of its last stretch of coded data, which a picture of this size needs."""
    begin, end, _ = list(_stretches(data))[-1]
    return data[: end - SPARE] + data[end:] if end - begin > SPARE else None


def _parts(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(marker, its begin, the begin and the end of its body), up to the end marker or the end of the data."""
    position = 2
    while match := MARKER.search(data, position):
        marker, body = match.group(1)[0], match.end()
        bare = marker in (END, BARE) or marker in RESTARTS
        position = body if bare else body + int.from_bytes(data[body : body + 2], "big")
        yield marker, match.start(), body, position
        if marker == END:
            return


def _stretches(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(begin, end, next marker) of every stretch of coded data, from a scan's header or a restart to a marker."""
    coded, start = False, 0
    for marker, begin, _, end in _parts(data):
        if coded:
            yield start, begin, marker
        coded, start = marker == SCAN or (coded and marker in RESTARTS), end


def _bits_left(header: bytes) -> dict[tuple[int, int], int]:
    """(component, coefficient) -> low bits left to later scans, for what one scan of a JPEG brings (T.81, B.2.3)."""
    count = header[0]
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    return {(component, k): bits & 15 for component in header[1 : 1 + 2 * count : 2] for k in range(first, last + 1)}
