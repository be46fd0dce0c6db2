"""A folder of deliberately odd image files, and what must become of each.

`write_corpus` returns file name -> expected reason. Pixels are drawn from one seed; the bombs are streamed through
zlib, so that writing them takes neither memory nor time.
"""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 64, 80
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def cells(high: int = 255, dtype: Any = np.uint8, seed: int = 0) -> Any:
    """(H, W) bright discs on a dim noisy ground, values from 0 to `high`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = rng.uniform(0, 0.1, (HEIGHT, WIDTH))
    for cy, cx in rng.uniform((8, 8), (HEIGHT - 8, WIDTH - 8), (9, 2)):
        picture[(y - cy) ** 2 + (x - cx) ** 2 < 25] = rng.uniform(0.4, 1)
    picture[0, 0], picture[-1, -1] = 0, 1
    return np.round(picture * high).astype(dtype)


def colour(dtype: Any = np.uint8, high: int = 255) -> Any:
    """(H, W, 3), three different channels."""
    return np.stack([cells(high, dtype, seed) for seed in range(3)], axis=-1)


def stack(planes: int = 5, dtype: Any = np.uint16, high: int = 4095) -> Any:
    """(planes, H, W)."""
    return np.stack([cells(high, dtype, seed) for seed in range(planes)])


def pillow(array: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(out, kind, **options)
    return out.getvalue()


def tiff(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int, colour_type: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))


def zeros_deflated(size: int) -> bytes:
    """A zlib stream of `size` zero bytes: a megabyte of them, repeated, and what is left."""
    whole, rest = zlib.compressobj(9, wbits=-zlib.MAX_WBITS), zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    megabyte = whole.compress(bytes(1 << 20)) + whole.flush(zlib.Z_FULL_FLUSH)
    end = rest.compress(bytes(size & 0xFFFFF)) + rest.flush()
    checksum = size % 65521 << 16 | 1  # Adler's, of zeros
    return b"\x78\xda" + megabyte * (size >> 20) + end + struct.pack(">I", checksum)


def png_bomb(side: int) -> bytes:
    """A black square of side x side pixels, one bit each."""
    body = zeros_deflated(side * (side // 8 + 1))
    return PNG_SIGNATURE + header(side, side, 1, 0) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_deep(array: Any, colour_type: int) -> bytes:
    """A 16-bit PNG from (H, W, C)."""
    rows = array.astype(">u2").reshape(array.shape[0], -1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    size = header(array.shape[1], array.shape[0], 16, colour_type)
    return PNG_SIGNATURE + size + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_with(extra: bytes) -> bytes:
    """A good PNG with one more chunk behind its header."""
    good = pillow(cells(), "PNG")
    return good[:33] + extra + good[33:]


def tiff_bomb(side: int) -> bytes:
    """A TIFF whose one deflated strip would inflate to side x side bytes."""
    return raw_tiff({256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 278: side}, zeros_deflated(side * side))


def raw_tiff(tags: dict[int, int], body: bytes, next_page: int = 0, text: bytes = b"") -> bytes:
    """A TIFF of one page and one strip, from its tags; `next_page` is the offset of a page that follows, `text` its
    description."""
    fields = {tag: (4, 1, value) for tag, value in {**tags, 273: 8, 279: len(body)}.items()}
    if text:
        fields[270] = (2, len(text), 8 + len(body))
    padded = body + text + bytes((len(body) + len(text)) % 2)
    directory = b"".join(struct.pack("<HHII", tag, *field) for tag, field in sorted(fields.items()))
    start = struct.pack("<2sHI", b"II", 42, 8 + len(padded))
    return start + padded + struct.pack("<H", len(fields)) + directory + struct.pack("<I", next_page)


def virtual_stack() -> bytes:
    """What ImageJ writes for large stacks: one page header, all planes behind each other."""
    tags = {256: WIDTH, 257: HEIGHT, 258: 16, 259: 1, 262: 1, 277: 1, 278: HEIGHT}
    return raw_tiff(tags, stack().tobytes(), text=b"ImageJ=1.53k\nimages=5\nslices=5\n\0")


def time_bomb(side: int, pages: int) -> bytes:
    """A small TIFF of many pages that share one deflated strip of side x side zeros."""
    body = zeros_deflated(side * side)
    body += bytes(len(body) % 2)
    fields = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: side, 279: len(body)}
    directory = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in fields.items())
    begin, size = 8 + len(body), len(directory) + 4
    following = [*(begin + size * number for number in range(1, pages)), 0]
    chain = b"".join(directory + struct.pack("<I", offset) for offset in following)
    return struct.pack("<2sHI", b"II", 42, begin) + body + chain


def looping_tiff() -> bytes:
    body = cells().tobytes()
    tags = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 277: 1, 278: HEIGHT}
    return raw_tiff(tags, body, next_page=8 + len(body))


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def rgba(opaque: bool = False) -> Any:
    """(H, W, 4): white border, a red square, hidden noise where alpha is 0."""
    array = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    array[..., :3] = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3))
    array[:4] = array[-4:] = array[:, :4] = array[:, -4:] = 255
    array[20:40, 20:40] = (255, 0, 0, 255)
    if opaque:
        array[..., 3] = 255
    return array


def paletted(grey: bool = False, transparent: bool = False) -> bytes:
    picture = Image.frombytes("P", (WIDTH, HEIGHT), (cells() // 64).tobytes())
    table = [(0, 0, 0), (90, 90, 90), (180, 180, 180), (255, 255, 255)]
    coloured = [(255, 255, 255), (0, 0, 200), (0, 200, 0), (200, 0, 0)]
    picture.putpalette([value for entry in (table if grey else coloured) for value in entry])
    options: dict[str, Any] = {"transparency": 1} if transparent else {}
    return pillow(picture, "PNG", **options)


def with_bad_samples(fraction: float, value: float) -> Any:
    """(H, W) float32 with `fraction` of the samples replaced."""
    array = cells(1000, np.float32)
    where = np.random.default_rng(2).permutation(array.size)[: round(fraction * array.size)]
    array.flat[where] = value
    return array


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(colour()), Image.fromarray(255 - colour()), Image.fromarray(colour() // 2)]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    return pillow(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def without_middle(data: bytes, piece: int) -> bytes:
    """The data without the stretches between restart markers 3 and 3 + piece."""
    restarts = [at for at in range(len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    return data[: restarts[3]] + data[restarts[3 + piece] :]


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


TAGS = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 277: 1, 278: HEIGHT}


def lzw(array: Any) -> bytes:
    with tifffile.TiffFile(io.BytesIO(tiff(array, compression="lzw"))) as file:
        page: Any = file.pages[0]
        return bytes(next(iter(page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts)))[0])


def jpeg_of_height(height: int) -> bytes:
    """A JPEG whose header names fewer rows than are coded."""
    data = pillow(colour(), "JPEG", quality=95)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">H", height) + data[at + 2 :]


def bmp_of_height(height: int) -> bytes:
    data = pillow(colour(), "BMP")
    return data[:22] + struct.pack("<i", height) + data[26:]


GOOD: dict[str, Callable[[], bytes]] = {
    "good_grey.png": lambda: pillow(cells(), "PNG"),
    "good_rgb.png": lambda: pillow(colour(), "PNG"),
    "good_g16.tif": lambda: tiff(cells(4095, np.uint16)),
    "good.jpg": lambda: pillow(colour(), "JPEG", quality=95),
    "good_f32.tif": lambda: tiff(cells(1000, np.float32)),
}

ODD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zero.png": ("E_NOT_IMAGE", lambda: b""),
    "text.png": ("E_NOT_IMAGE", lambda: b"this is not an image\n" * 20),
    "html.jpg": ("E_NOT_IMAGE", lambda: b"<!DOCTYPE html><html><body>404</body></html>"),
    "zip_as.tif": ("E_NOT_IMAGE", lambda: b"PK\x03\x04" + bytes(100)),
    "trunc.png": ("E_TRUNCATED", lambda: half(pillow(colour(), "PNG"))),
    "trunc.jpg": ("E_TRUNCATED", lambda: half(pillow(colour(), "JPEG", quality=95))),
    "trunc_eoi.jpg": ("E_TRUNCATED", lambda: pillow(colour(), "JPEG", quality=95)[:-2]),
    "early_eoi.jpg": ("E_TRUNCATED", lambda: half(pillow(colour(), "JPEG", quality=95)) + b"\xff\xd9"),
    "early_eoi_progressive.jpg": (
        "E_TRUNCATED",
        lambda: half(pillow(colour(), "JPEG", progressive=True)) + b"\xff\xd9",
    ),
    "lost_restarts.jpg": (
        "E_TRUNCATED",
        lambda: without_middle(pillow(colour(), "JPEG", quality=95, restart_marker_blocks=1), 8),
    ),
    "swapped_restarts.jpg": (
        "E_CORRUPT",
        lambda: without_middle(pillow(colour(), "JPEG", quality=95, restart_marker_blocks=1), 3),
    ),
    "short.jpg": ("OK_NOTE", lambda: jpeg_of_height(HEIGHT // 2)),
    "short.bmp": ("OK_NOTE", lambda: bmp_of_height(HEIGHT // 2)),
    "short.tif": ("OK_NOTE", lambda: raw_tiff({**TAGS, 257: HEIGHT // 2}, cells().tobytes())),
    "short_lzw.tif": ("OK_NOTE", lambda: raw_tiff({**TAGS, 257: HEIGHT // 2, 259: 5}, lzw(cells()))),
    "zero_tail.tif": ("OK_NOTE", lambda: raw_tiff(TAGS, half(cells().tobytes()) + bytes(cells().size // 2))),
    "trunc_frames.gif": ("E_TRUNCATED", lambda: animation("GIF")[:-200]),
    "trunc.gif": ("E_TRUNCATED", lambda: half(pillow(cells(), "GIF"))),
    "trunc.bmp": ("E_TRUNCATED", lambda: half(pillow(colour(), "BMP"))),
    "trunc.webp": ("E_TRUNCATED", lambda: half(pillow(colour(), "WEBP"))),
    "trunc.tif": ("E_TRUNCATED", lambda: half(tiff(cells(4095, np.uint16)))),
    "trunc_lzw.tif": ("E_TRUNCATED", lambda: half(tiff(cells(4095, np.uint16), compression="zlib"))),
    "trunc_stack.tif": ("E_TRUNCATED", lambda: half(tiff(stack()))),
    "trunc_imagej.tif": ("E_TRUNCATED", lambda: half(tiff(stack(), imagej=True))),
    "bitflip.jpg": ("OK_NOTE", lambda: flipped(pillow(colour(), "JPEG", quality=95), 2000)),
    "bitflip.png": ("E_CORRUPT", lambda: flipped(pillow(colour(), "PNG"), 2000)),
    "g16.png": ("OK", lambda: pillow(cells(4095, np.uint16), "PNG")),
    "stack_z5.tif": ("OK_NOTE", lambda: tiff(stack(), imagej=True, metadata={"axes": "ZYX"})),
    "stack_t5.tif": ("OK_NOTE", lambda: tiff(stack(), imagej=True, metadata={"axes": "TYX"})),
    "stack_plain.tif": ("OK_NOTE", lambda: tiff(stack(), metadata=None)),
    "stack_virtual.tif": ("OK_NOTE", virtual_stack),
    "rgb16.png": ("OK", lambda: png_deep(colour(np.uint16, 60000), 2)),
    "rgba16.png": ("OK_NOTE", lambda: png_deep(rgba().astype(np.uint16) * 257, 6)),
    "ch2.ome.tif": ("OK", lambda: tiff(stack(2), ome=True, metadata={"axes": "CYX"})),
    "ch5.ome.tif": ("OK", lambda: tiff(stack(5), ome=True, metadata={"axes": "CYX"})),
    "f32_nan.tif": ("OK_NOTE", lambda: tiff(with_bad_samples(0.01, np.nan))),
    "f32_inf.tif": ("OK_NOTE", lambda: tiff(with_bad_samples(0.01, np.inf))),
    "f32_nan_many.tif": ("E_NAN", lambda: tiff(with_bad_samples(0.2, np.nan))),
    "f64.tif": ("OK", lambda: tiff(cells(1000, np.float64))),
    "complex.tif": ("E_DTYPE", lambda: tiff(cells(1000, np.complex64))),
    "i64.tif": ("E_DTYPE", lambda: tiff(cells(1000, np.int64))),
    "i32.tif": ("OK", lambda: tiff(cells(100_000, np.int32) - 50_000)),
    "u32.tif": ("OK", lambda: tiff(cells(4_000_000_000, np.uint32))),
    "miniswhite.tif": ("OK_NOTE", lambda: tiff(255 - cells(), photometric="miniswhite")),
    "bilevel.tif": ("OK", lambda: tiff(cells() > 100, photometric="minisblack")),
    "bilevel.png": ("OK", lambda: pillow(Image.fromarray(cells() > 100), "PNG")),
    "rgb_planar.tif": (
        "OK",
        lambda: tiff(np.moveaxis(colour(), -1, 0), photometric="rgb", planarconfig="separate"),
    ),
    "exif6.jpg": ("OK_NOTE", lambda: pillow(colour(), "JPEG", quality=95, exif=exif(6))),
    "exif_bad.png": ("OK_NOTE", lambda: png_with(chunk(b"eXIf", b"MM\0*\0\0"))),
    "rgba.png": ("OK_NOTE", lambda: pillow(rgba(), "PNG")),
    "rgba_opaque.png": ("OK", lambda: pillow(rgba(opaque=True), "PNG")),
    "rgba.tif": ("OK_NOTE", lambda: tiff(rgba(), photometric="rgb", extrasamples=["unassalpha"])),
    "la.png": ("OK_NOTE", lambda: pillow(np.stack([cells(), 255 - cells()], -1), "PNG")),
    "pal.png": ("OK", paletted),
    "pal_grey.png": ("OK", lambda: paletted(grey=True)),
    "pal_trans.png": ("OK_NOTE", lambda: paletted(transparent=True)),
    "cmyk.jpg": ("OK_NOTE", lambda: pillow(Image.fromarray(colour()), "JPEG", mode="CMYK")),
    "anim.gif": ("OK_NOTE", lambda: animation("GIF")),
    "anim.webp": ("OK_NOTE", lambda: animation("WEBP")),
    "anim.png": ("OK_NOTE", lambda: animation("PNG")),
    "png_as.jpg": ("OK_NOTE", lambda: pillow(cells(), "PNG")),
    "trail.jpg": ("OK_NOTE", lambda: pillow(colour(), "JPEG", quality=95) + b"trailing bytes"),
    "bomb_20k.png": ("E_TOO_LARGE", lambda: png_bomb(20_000)),
    "bomb_10k.png": ("E_TOO_LARGE", lambda: png_bomb(10_000)),
    "bomb_deflate.tif": ("E_TOO_LARGE", lambda: tiff_bomb(12_000)),
    "bomb_ztxt.png": (
        "OK_NOTE",
        lambda: png_with(chunk(b"zTXt", b"comment\0\0" + zeros_deflated(200_000_000))),
    ),
    "bomb_iccp.png": (
        "OK_NOTE",
        lambda: png_with(chunk(b"iCCP", b"profile\0\0" + zeros_deflated(200_000_000))),
    ),
    "ifdloop.tif": ("OK_NOTE", looping_tiff),
    "modei.pgm": ("OK", lambda: pillow(Image.fromarray(cells(4095, np.uint16)), "PPM")),
    "modef.tif": ("OK", lambda: pillow(Image.fromarray(cells(1000, np.float32)), "TIFF")),
    "one_pixel.png": ("E_TOO_SMALL", lambda: pillow(np.zeros((1, 1), np.uint8), "PNG")),
    "one_row.tif": ("E_TOO_SMALL", lambda: tiff(np.zeros((1, 200), np.uint8))),
    "ribbon.png": ("OK", lambda: pillow(np.zeros((10, 30_000), np.uint8), "PNG")),
    "black.png": ("OK", lambda: pillow(np.zeros((HEIGHT, WIDTH), np.uint8), "PNG")),
    "constant.tif": ("OK", lambda: tiff(np.full((HEIGHT, WIDTH), 777, np.uint16))),
}


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def write_corpus(folder: Path) -> dict[str, str]:
    """Write every file into `folder`; returns file name -> expected reason."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, make in GOOD.items():
        (folder / name).write_bytes(make())
        expected[name] = "OK"
    for name, (reason, make) in ODD.items():
        (folder / name).write_bytes(make())
        expected[name] = reason
    return expected
