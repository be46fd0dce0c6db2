"""Decoder for TIFF, BigTIFF, OME-TIFF and ImageJ stacks: axes from the metadata, header checked before decoding."""

import io
import itertools
import math
import re
import struct
from typing import Any

import numpy as np

from cellvision.io.images import jpeg, ome
from cellvision.io.images.pixels import (
    Array,
    Decoded,
    Frames,
    ImageError,
    Limits,
    Reason,
    by_rows,
    check_size,
    composite,
    note_blank,
    orient,
    reduce_planes,
)
from cellvision.io.images.raster import COARSEST_UM

MAX_IFDS = 100_000  # pages
MAX_PLANES = 1_000_000  # what OME metadata may declare; the parser builds a list as long as that
STACKED = "ZIQ"  # depth, and sequences of pages that nothing describes: reduced by default
REDUCIBLE = STACKED + "T"
UNIT_UM = {
    **dict.fromkeys(("um", "\xb5m", "\u03bcm", "\\u00b5m", "micron", "microns", "micrometer"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25_400.0, "in": 25_400.0},
}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
LAST_STANDARD_TAG = 532
UNBOUNDED = (5, 32773)  # LZW and PackBits: what a strip holds too much is dropped without a word
IMAGEJ_TAGS = (50838, 50839)
DECLARED = re.compile(r'\b(?:NumPlanes|PlaneCount|IFD|First[ZCT]|Size[ZCT])="(-?\d+)"')
ALONG = re.compile(r"<[^>]*Along[ZCT]\b[^>]*>")


def decode(data: bytes, frames: Frames, limits: Limits, labels: bool = False) -> Decoded:
    """TIFF bytes -> (H, W, C) pixels, channels and samples last, the other axes reduced by the `frames` policy.

    `labels`: numbers as they are stored, without the colours of a palette, and of 64 bits, too, where they fit into 32.
    """
    import tifffile

    notes: list[str] = []
    headers = _walk_pages(data, notes)
    # without _multifile=False, OME metadata could name other files to open
    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tiff:
        first: Any = tiff.pages[0]
        if first.is_ome:
            _check_ome(first.description)
        series = tiff.series[0]
        if len(tiff.series) > 1:
            notes.append(f"{len(tiff.series)} image series: only the first is used")
        page: Any = series.keyframe
        _check_kind(page, series, labels)
        samples = _samples_per_plane(series)
        channels = math.prod(n for axis, n in zip(series.axes, series.shape, strict=True) if axis == "C")
        height, width = (int(series.shape[series.axes.index(axis)]) for axis in "YX")
        check_size(height, width, limits, channels * samples, series.dtype.itemsize)
        if page.is_tiled:
            check_size(max(page.tilelength, limits.min_side), max(page.tilewidth, limits.min_side), limits, samples, 8)
        planes = _Planes(data, headers, series, page, limits, notes, labels)
        facts = ome.read(first.description) if first.is_ome else ome.Facts((), None, ())
        if first.is_ome and series.kind != "ome":
            pixels, names = _reduce_own(facts, planes, frames, notes)
        else:
            pixels, names = _reduce(series, planes, frames, notes), facts.names
        pixel_size = _pixel_size(tiff, page, notes)
        orientation = int(page.tags.valueof(274, default=1))
        full = _full_scale(page, facts.bits)
    pixels = orient(
        _narrow(pixels) if pixels.dtype.itemsize == 8 and pixels.dtype.kind in "iu" else pixels, orientation, notes
    )
    return Decoded(pixels, pixel_size, notes, full, list(names) if len(names) == pixels.shape[-1] else [])


def _walk_pages(data: bytes, notes: list[str]) -> int:
    """Count the page headers: their chain must stay inside the file, and hold at most MAX_IFDS pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    first, count_format, entry, pointer = (8, "Q", 20, "Q") if big else (4, "H", 12, "I")
    seen: set[int] = set()
    try:
        offset = struct.unpack_from(order + pointer, data, first)[0]
        while offset and offset not in seen:
            seen.add(offset)
            if len(seen) > MAX_IFDS:
                raise ImageError(Reason.E_CORRUPT, f"more than {MAX_IFDS} TIFF pages; export fewer planes per file")
            count = struct.unpack_from(order + count_format, data, offset)[0]
            start = offset + struct.calcsize(order + count_format)
            end = start + count * entry
            _check_values(data[start:end], order + ("HHQQ" if big else "HHII"), len(data))
            offset = struct.unpack_from(order + pointer, data, end)[0]
    except struct.error as error:
        raise ImageError(Reason.E_TRUNCATED, "a TIFF page lies beyond the end of the file; copy it again") from error
    if not seen:
        raise ImageError(Reason.E_CORRUPT, "the TIFF has no page, expected at least one; export it again")
    if offset:
        notes.append(f"the chain of TIFF pages is a loop: its {len(seen)} pages are read once")
    return len(seen)


def _check_values(entries: bytes, layout: str, size: int) -> None:
    """Raise where a value of a standard tag lies beyond the file: without its metadata a stack would be misread."""
    inline = struct.calcsize("=" + layout[-1])
    for tag, kind, count, at in struct.iter_unpack(layout, entries):
        if tag <= LAST_STANDARD_TAG and kind not in TYPE_BYTES:
            raise ImageError(Reason.E_CORRUPT, f"TIFF tag {tag} has no type that exists; copy the file again")
        needed = count * TYPE_BYTES.get(kind, 0)
        if (tag <= LAST_STANDARD_TAG or tag in IMAGEJ_TAGS) and needed > inline and at + needed > size:
            raise ImageError(Reason.E_TRUNCATED, f"the value of TIFF tag {tag} lies beyond the file; copy it again")


def _check_ome(description: str) -> None:
    """Refuse OME metadata whose declared planes would fill the memory while it is parsed."""
    declared = max((int(value) for value in DECLARED.findall(description)), default=0)
    for tag in ALONG.findall(description):
        bounds = {key: float(value) for key, value in re.findall(r'\b(Start|End|Step)="([-+.\deE]+)"', tag)}
        step = bounds.get("Step", 1.0) or 1e-9
        steps = abs((bounds.get("End", 0.0) - bounds.get("Start", 0.0)) / step)
        declared = max(declared, MAX_PLANES + 1 if not steps < MAX_PLANES else int(steps))
    if declared > MAX_PLANES:
        raise ImageError(
            Reason.E_CORRUPT, f"OME metadata declares {declared} planes, at most {MAX_PLANES} are read; export it again"
        )


def _check_kind(page: Any, series: Any, labels: bool) -> None:
    """Refuse sample types and colour spaces that have no one meaning as intensities."""
    dtype = series.dtype
    longest = 8 if labels else 4
    wide = dtype is not None and dtype.kind in "iu" and dtype.itemsize > longest
    if dtype is None or dtype.kind not in "biuf" or wide or dtype.itemsize > 8:
        name = "unknown" if dtype is None else str(dtype)
        raise ImageError(
            Reason.E_DTYPE, f"samples are {name}, expected 8- to 32-bit integers or floats; convert before export"
        )
    if not {"Y", "X"} <= set(series.axes):
        raise ImageError(Reason.E_CORRUPT, f"TIFF axes are {series.axes}, expected at least Y and X; export it again")
    photometric = int(page.photometric)
    if photometric > 6 or (photometric == 6 and int(page.compression) not in (6, 7)):
        raise ImageError(
            Reason.E_CHANNELS,
            f"colour space {getattr(page.photometric, 'name', photometric)} is not read; export as grey or RGB",
        )


def _samples_per_plane(series: Any) -> int:
    return int(series.shape[series.axes.index("S")]) if "S" in series.axes else 1


class _Planes:
    """Planes of a series by index into its axes other than Y, X and S; read one by one where the file allows."""

    def __init__(
        self, data: bytes, headers: int, series: Any, page: Any, limits: Limits, notes: list[str], labels: bool
    ) -> None:
        self.data, self.series, self.page, self.notes, self.labels = data, series, page, notes, labels
        self.whole: Array | None = None
        sizes = dict(zip(series.axes, series.shape, strict=True))
        self.plane_shape = (sizes["Y"], sizes["X"], sizes.get("S", 1))
        self.lead = [axis for axis in series.axes if axis not in "YXS"]
        lead_shape = [series.shape[series.axes.index(axis)] for axis in self.lead]
        self.shape = tuple(int(size) for size in lead_shape)
        # a stack with one header for all planes declares more pages than there are
        pages = list(series) if len(series) <= headers else [series[0]]
        if any(item is None for item in pages) or (len(series) > headers and series.dataoffset is None):
            raise ImageError(Reason.E_TRUNCATED, "planes that the metadata names are missing; export the stack again")
        paged = len(pages) == math.prod(self.shape) and series.axes.endswith(page.axes)
        self.pages = pages if paged and series.shape[-len(page.axes) :] == page.shape else None
        for item in pages:
            if item.shape != page.shape or item.dtype != page.dtype or math.prod(page.shaped) != math.prod(page.shape):
                raise ImageError(Reason.E_CORRUPT, "pages of one TIFF series differ in size or type; export it again")
            _check_segments(data, item, page)
        if len(series) <= headers:
            _note_surplus(data, pages[-1], page, notes)
        if self.pages is None:
            needed = math.prod(series.shape) * series.dtype.itemsize
            if series.dataoffset is not None and series.dataoffset + needed > len(data):
                raise ImageError(
                    Reason.E_TRUNCATED, f"the stack needs {needed} bytes, the file has fewer; copy it again"
                )
            if needed > limits.max_decoded_mb * 1e6:
                raise ImageError(
                    Reason.E_TOO_LARGE,
                    f"the stack needs {needed / 1e6:.0f} MB, the limit is {limits.max_decoded_mb:g} MB;"
                    " split it or raise max_decoded_mb",
                )
            array = series.asarray()
            order = [series.axes.index(axis) for axis in (*self.lead, "Y", "X", *("S" if "S" in series.axes else ""))]
            self.whole = array.reshape(series.shape).transpose(order)

    def read(self, index: tuple[int, ...]) -> Array:
        """(H, W, S) of one plane, small values dark, colours as grey or RGB."""
        if self.pages is None:
            assert self.whole is not None
            plane = self.whole[index]
        else:
            flat = int(np.ravel_multi_index(index, self.shape)) if self.shape else 0
            plane = self.pages[flat].asarray()
            if int(self.page.compression) == 7:
                self.check_jpeg(self.pages[flat])
            if "S" in self.page.axes and self.page.axes.index("S") == 0:
                plane = np.moveaxis(plane, 0, -1)
        plane = plane if plane.ndim == 3 else plane[..., None]
        if plane.shape != self.plane_shape:
            raise ImageError(
                Reason.E_CORRUPT, f"a TIFF page is {plane.shape}, its header says {self.plane_shape}; export it again"
            )
        return _plain(plane, self.page, self.notes, self.labels)

    def check_jpeg(self, page: Any) -> None:
        """Decode every segment again with more coded data, which change nothing where it is whole."""
        for index, (at, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            segment = self.data[at : at + count]
            plain, more = (
                self.page.decode(coded, index, jpegtables=self.page.jpegtables)[0]
                for coded in (segment, jpeg.with_more(segment))
            )
            if not np.array_equal(plain, more):
                raise ImageError(Reason.E_TRUNCATED, "a part of a JPEG tile is missing; copy the file again")


def _check_segments(data: bytes, item: Any, page: Any) -> None:
    """Every strip or tile must lie inside the file, hold enough bytes, and not inflate beyond the page."""
    offsets, counts = item.dataoffsets, item.databytecounts
    if len(offsets) < math.prod(page.chunked) or len(offsets) != len(counts) or 0 in (*offsets, *counts):
        raise ImageError(Reason.E_CORRUPT, "strips or tiles of a TIFF page are missing; export it again")
    if any(at + n > len(data) for at, n in zip(offsets, counts, strict=True)):
        raise ImageError(Reason.E_TRUNCATED, "TIFF pixels lie beyond the end of the file; copy it again")
    if int(page.compression) == 1 and sum(counts) * 8 < math.prod(page.shape) * page.bitspersample:
        raise ImageError(Reason.E_TRUNCATED, "a TIFF page has fewer bytes than its size needs; export it again")
    if int(page.compression) in (6, 7):
        allowed = max(page.imagelength, page.tilelength) + 64, max(page.imagewidth, page.tilewidth) + 64
        for at, n in zip(offsets, counts, strict=True):
            if int(page.compression) == 7:
                jpeg.checked(data[at : at + n], [])
            size = jpeg.size(data[at : at + n])
            if size is None or size[0] > allowed[0] or size[1] > allowed[1]:
                raise ImageError(Reason.E_CORRUPT, f"a JPEG tile of {size} px lies in a smaller page; export it again")


def _note_surplus(data: bytes, item: Any, page: Any, notes: list[str]) -> None:
    """Say where a page stores more than its header shows, or long runs of 0."""
    import tifffile

    offsets, counts = item.dataoffsets, item.databytecounts
    row = (math.prod(page.chunks[1:]) * page.bitspersample + 7) // 8
    stored = page.chunks[0] * row  # bytes of one whole strip or tile
    surplus = len(offsets) > math.prod(page.chunked)
    if int(page.compression) == 1:
        surplus |= sum(counts) >= len(counts) * stored + row
        note_blank(data[min(offsets) : max(at + n for at, n in zip(offsets, counts, strict=True))], notes)
    elif int(page.compression) in UNBOUNDED:
        last = data[offsets[-1] : offsets[-1] + counts[-1]]
        surplus |= len(tifffile.TIFF.DECOMPRESSORS[page.compression](last, out=stored + row)) > stored
    if surplus:
        notes.append("the TIFF holds more than its picture shows: it is damaged, or its size is wrong")


def _plain(plane: Array, page: Any, notes: list[str], labels: bool) -> Array:
    """(H, W, S) stored samples -> 0 is black, whole bytes, no palette, no alpha, no printing colours."""
    photometric, bits = int(page.photometric), int(page.bitspersample)
    plane = plane.astype(plane.dtype.newbyteorder("="), copy=False)
    if photometric == 3 and page.colormap is not None and plane.shape[-1] == 1 and not labels:
        return _palette(plane[..., 0], page.colormap, notes)
    if plane.dtype.kind == "b":
        plane, bits = plane.astype(np.uint8) * 255, 8
    elif plane.dtype == np.uint8 and bits < 8 and photometric in (0, 1):
        notes.append(f"{bits}-bit samples stretched to 8 bits")
        stretch = 255 / (2**bits - 1)
        plane, bits = by_rows(lambda block: np.rint(block * stretch).astype(np.uint8), plane), 8
    elif plane.dtype == np.float16:
        plane = plane.astype(np.float32)
    if photometric == 0:
        notes.append("white-is-zero samples inverted")
        plane = by_rows(lambda block: _inverted(block, bits), plane)
    extra = [int(kind) for kind in page.extrasamples]
    if photometric == 5 and plane.shape[-1] >= 4 and plane.dtype.kind == "u":
        notes.append("CMYK converted to RGB")
        return by_rows(lambda block: _from_ink(block, bits), plane)
    if extra and extra[-1] in (1, 2) and len(extra) == 1 and plane.shape[-1] in (2, 4):
        if _looks_like_alpha(plane[..., -1]):
            return composite(plane, notes)
        notes.append("the last samples are called alpha but hold intensities: they are a channel")
    return plane


def _looks_like_alpha(samples: Array) -> bool:
    """(H, W) -> whether most of what is not clear is opaque; a stain has few pixels at the end of its range."""
    opaque = np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1
    return bool(2 * np.count_nonzero(samples == opaque) >= np.count_nonzero(samples))


def _narrow(pixels: Array) -> Array:
    """(H, W, C) of 64-bit whole numbers -> of 32 bits."""
    low, high = int(pixels.min()), int(pixels.max())
    kind = next(
        (kind for kind in (np.int32, np.uint32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), None
    )
    if kind is None:
        raise ImageError(Reason.E_DTYPE, f"64-bit numbers from {low} to {high}; labels must fit into 32 bits")
    return pixels.astype(kind)


def _full_scale(page: Any, bits: int | None) -> float | None:
    """The value of most light, where OME's SignificantBits or the tag SMaxSampleValue tell less than the type holds."""
    if page.dtype is None or page.dtype.kind != "u" or page.dtype.itemsize == 1 or int(page.photometric) == 0:
        return None
    largest = page.tags.valueof(341, default=None)
    largest = max(largest) if isinstance(largest, tuple) else largest
    if bits is None and isinstance(largest, (int, float)) and largest > 1 and math.log2(largest + 1).is_integer():
        bits = int(math.log2(largest + 1))
    return 2.0**bits - 1 if bits is not None and 1 < bits < page.bitspersample else None


def _from_ink(plane: Array, bits: int) -> Array:
    """(H, W, 4 or more) cyan, magenta, yellow and black -> (H, W, 3) RGB."""
    full = np.float64(2**bits - 1)
    ink = plane[..., :4].astype(np.float64)
    return np.rint((full - ink[..., :3]) * (full - ink[..., 3:]) / full).astype(plane.dtype)


def _inverted(plane: Array, bits: int) -> Array:
    if plane.dtype.kind == "u":
        return (2**bits - 1 - plane.astype(np.int64)).astype(plane.dtype)
    return np.invert(plane) if plane.dtype.kind == "i" else -plane


def _palette(index: Array, colormap: Array, notes: list[str]) -> Array:
    """(H, W) indices -> RGB; where the table only ever rises it is a display colour, and the index is the intensity."""
    table = np.asarray(colormap)
    if (np.diff(table.astype(np.int64), axis=1) >= 0).all():
        notes.append("display lookup table ignored: the stored intensities are used")
        return index[..., None]
    colours = (table >> 8 if table.max() > 255 else table).astype(np.uint8).T
    return colours[np.minimum(index, len(colours) - 1)]


def _reduce(series: Any, planes: _Planes, frames: Frames, notes: list[str]) -> Array:
    """All channels of the series side by side, each reduced over depth, time and unnamed pages as `frames` says."""
    reduced = {"auto": STACKED, "first": "", "max": REDUCIBLE, "mean": REDUCIBLE}[frames]
    ranges = {}
    for axis, size in zip(planes.lead, planes.shape, strict=True):
        ranges[axis] = range(size if axis == "C" or axis in reduced else min(size, 1))
        if size > 1 and axis != "C":
            name = {"Z": "depth", "T": "time", "I": "unnamed pages", "Q": "unnamed pages"}.get(axis, f"axis {axis}")
            how = f"{'mean' if frames == 'mean' else 'maximum'} of" if axis in reduced else "first of"
            notes.append(f"{how} {size} planes ({name})")
    channels = ranges.get("C", range(1))
    parts = []
    for channel in channels:
        chosen = [range(channel, channel + 1) if axis == "C" else ranges[axis] for axis in planes.lead]
        parts.append(reduce_planes((planes.read(index) for index in itertools.product(*chosen)), frames))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _reduce_own(facts: ome.Facts, planes: _Planes, frames: Frames, notes: list[str]) -> tuple[Array, tuple[str, ...]]:
    """The planes of an image that lies in several files, of which this is one: never a maximum over stains or times."""
    count = math.prod(planes.shape)
    own = facts.own or ((ome.Plane(0, 0, 0, 0),) if count == 1 else ())
    if not own and frames == "auto":
        raise ImageError(
            Reason.E_CHANNELS,
            f"its OME metadata does not tell what its {count} pages are; export it again, or say --frames first or max",
        )
    own = own or tuple(ome.Plane(page, 0, page, 0) for page in range(count))
    if max(plane.page for plane in own) >= count:
        raise ImageError(Reason.E_TRUNCATED, "planes that the metadata names are missing; export the stack again")
    channels = sorted({plane.c for plane in own})
    parts = []
    for channel in channels:
        chosen = [plane for plane in own if plane.c == channel]
        if frames in ("auto", "first"):
            first = min(plane.t for plane in chosen)
            chosen = [plane for plane in chosen if plane.t == first]
        if frames == "first":
            chosen = [min(chosen, key=lambda plane: plane.z)]
        index = [(plane.page,) if planes.shape else () for plane in chosen]
        parts.append(reduce_planes((planes.read(place) for place in index), frames))
    for axis, name in (("t", "time"), ("z", "depth")):
        size = len({getattr(plane, axis) for plane in own})
        if size > 1:
            alone = frames == "first" or (frames == "auto" and axis == "t")
            how = "first" if alone else "mean" if frames == "mean" else "maximum"
            notes.append(f"{how} of {size} planes ({name})")
    notes.append(f"one of several files of an image: {len(own)} planes, channels {', '.join(map(str, channels))}")
    known = facts.names if max(channels) < len(facts.names) else ()
    return np.concatenate(parts, axis=-1), tuple(known[channel] for channel in channels) if known else ()


def _pixel_size(tiff: Any, page: Any, notes: list[str]) -> float | None:
    """um per pixel: OME PhysicalSizeX, else ImageJ's unit, else the resolution tags where they are a microscope's."""
    if page.is_ome:
        element = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", page.description)
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', element.group(0))) if element else {}
        return _um(attributes.get("PhysicalSizeX", ""), attributes.get("PhysicalSizeXUnit", "um"))
    ratio = page.tags.valueof(282, default=None)
    if not isinstance(ratio, tuple) or len(ratio) != 2 or not ratio[0]:
        return None
    per_unit = ratio[1] / ratio[0]
    if page.is_imagej:
        return _um(per_unit, str((tiff.imagej_metadata or {}).get("unit", "")))
    size = _um(per_unit, {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, default=2)), ""))
    if size is None or size > COARSEST_UM:
        return None
    notes.append(f"pixel size {size:.4g} um taken from the resolution tags")
    return size


def _um(value: str | float, unit: str) -> float | None:
    try:
        size = float(value) * UNIT_UM[unit.strip().lower()]
    except (KeyError, ValueError):
        return None
    return size if 0 < size < math.inf else None
