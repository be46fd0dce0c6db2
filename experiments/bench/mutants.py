"""Randomly damaged image files through the image reader: how many crash, hang, or become a silent half image.

A mutant is a small noisy picture in some format that was cut, had bytes flipped, its header edited, or a piece of it
replaced by a piece of another file. Noise has no flat part, so what a decoder paints where nothing is left shows. A
silent half image is one that is read although the file was cut, or one that is read with no other notes than the
whole file has and is smaller than the picture was, or has a flat part, where the picture had none. Other values
(a bit of a sample that flipped, noise where a code was hit) cannot be noticed where the format has no checksum.

python experiments/bench/mutants.py [--count 1000] [--seed 0] [--workers 2] [--keep DIR]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core.rng import generator
from cellvision.executors import local
from cellvision.io.images.reader import Image, ImageError, read_image

Array = NDArray[Any]
HEIGHT, WIDTH = 96, 128
HANG_S = 10.0
FLAT_PX = 16  # side of a square in one colour that noise never has
HEADER = 400  # bytes at the begin and the end of a file, where headers and directories lie


def noise(channels: int = 1, dtype: Any = np.uint8, planes: int = 1) -> Array:
    high = np.iinfo(dtype).max
    pixels = np.random.default_rng(channels + 10 * planes).integers(0, high, (planes, HEIGHT, WIDTH, channels), dtype)
    return pixels.squeeze()


def saved(kind: str, channels: int = 1, frames: int = 1, **options: Any) -> bytes:
    import PIL.Image

    planes = [noise(channels), *(noise(channels, planes=number)[-1] for number in range(2, frames + 1))]
    pictures = [PIL.Image.fromarray(plane) for plane in planes]
    out = io.BytesIO()
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(out, kind, **more, **options)
    return out.getvalue()


def tiff(array: Array, **options: Any) -> bytes:
    import tifffile

    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


SOURCES: dict[str, Callable[[], bytes]] = {
    "grey.png": lambda: saved("PNG"),
    "rgba.png": lambda: saved("PNG", 4),
    "grey.jpg": lambda: saved("JPEG", quality=90),
    "colour.jpg": lambda: saved("JPEG", 3, quality=80),
    "progressive.jpg": lambda: saved("JPEG", 3, progressive=True),
    "restarts.jpg": lambda: saved("JPEG", 3, restart_marker_rows=1),
    "plain.tif": lambda: tiff(noise(1, np.uint16)),
    "strips.tif": lambda: tiff(noise(3), compression="lzw", rowsperstrip=20),
    "deflate.tif": lambda: tiff(noise(1, np.uint16), compression="zlib", predictor=True),
    "tiles.tif": lambda: tiff(noise(3), tile=(32, 32), compression="lzw"),
    "jpeg.tif": lambda: tiff(noise(3), tile=(32, 32), compression="jpeg"),
    "packbits.tif": lambda: tiff(noise(), compression="packbits"),
    "pages.tif": lambda: tiff(noise(planes=4), compression="zlib", metadata=None),
    "imagej.tif": lambda: tiff(noise(1, np.uint16, 4), imagej=True),
    "ome.tif": lambda: tiff(noise(planes=3), ome=True, metadata={"axes": "CYX"}, compression="lzw"),
    "colour.bmp": lambda: saved("BMP", 3),
    "grey.bmp": lambda: saved("BMP"),
    "grey.gif": lambda: saved("GIF"),
    "moving.gif": lambda: saved("GIF", frames=3),
    "lossy.webp": lambda: saved("WEBP", 3, quality=80),
    "lossless.webp": lambda: saved("WEBP", 3, lossless=True),
}


@cache
def source(name: str) -> bytes:
    return SOURCES[name]()


@dataclass(frozen=True)
class Mutant:
    """A damaged file: what it was, how it was damaged, its bytes."""

    number: int
    name: str
    damage: str
    data: bytes


def mutant(number: int, seed: int) -> Mutant:
    """Mutant `number` of a seed; each is drawn by itself."""
    rng = generator(seed, "mutant", number)
    name = list(SOURCES)[number % len(SOURCES)]
    damage = list(DAMAGES)[int(rng.integers(len(DAMAGES)))]
    return Mutant(number, name, damage, DAMAGES[damage](source(name), rng))


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bytes anywhere replaced."""
    out = bytearray(data)
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        out[at] = rng.integers(256)
    return bytes(out)


def edit_header(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four bytes near the begin or the end replaced, often by a telling value."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(min(HEADER, len(data))))
        value = [0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))][rng.integers(6)]
        out[at if rng.random() < 0.7 else len(data) - 1 - at] = value
    return bytes(out)


def splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A piece taken out, doubled, zeroed, or replaced by a piece of another source."""
    low, high = np.sort(rng.integers(0, len(data), 2))
    other = source(list(SOURCES)[rng.integers(len(SOURCES))])
    begin = int(rng.integers(len(other)))
    middle = [b"", data[low:high] * 2, bytes(high - low), other[begin : begin + high - low]][rng.integers(4)]
    return data[:low] + middle + data[high:]


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": cut, "flip": flip, "header": edit_header, "splice": splice,
}  # fmt: skip


def is_flat(pixels: Array) -> Array:
    """(H, W, C) -> (h, w) bool: which squares of FLAT_PX px have one colour."""
    height, width = (side // FLAT_PX * FLAT_PX for side in pixels.shape[:2])
    squares = pixels[:height, :width].reshape(height // FLAT_PX, FLAT_PX, width // FLAT_PX, FLAT_PX, -1)
    return np.ptp(squares.astype(np.float64), axis=(1, 3)).max(axis=-1) == 0


@cache
def original(name: str) -> Image:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(source(name))
        return read_image(path)


def judge(task: tuple[int, int]) -> dict[str, Any]:
    """(number, seed) -> what became of the mutant: reason, seconds, and `half` where it is a silent half image."""
    mutated = mutant(*task)
    whole = original(mutated.name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / mutated.name
        path.write_bytes(mutated.data)
        begun = time.perf_counter()
        try:
            image = read_image(path)
        except ImageError as error:
            outcome = {"reason": str(error.reason), "half": "", "text": str(error)}
        else:
            half = what_is_missing(mutated, whole, image)
            outcome = {"reason": "OK_NOTE" if image.notes else "OK", "half": half, "text": "; ".join(image.notes)}
    seconds = time.perf_counter() - begun
    return {"number": mutated.number, "name": mutated.name, "damage": mutated.damage, "seconds": seconds, **outcome}


def what_is_missing(made: Mutant, whole: Image, image: Image) -> str:
    """Why the image is a silent half image; empty where it is none."""
    pixels = image.pixels
    if made.damage == "cut":
        return "cut, and read"
    if set(image.notes) - set(whole.notes):
        return ""
    if pixels.shape[0] < HEIGHT or pixels.shape[1] < WIDTH:
        return f"{whole.pixels.shape} became {pixels.shape}"
    flat = is_flat(pixels)
    return f"{flat.mean():.0%} of it is flat" if flat.any() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="write the mutants that fail into this folder")
    given = parser.parse_args()
    tasks = [(number, given.seed) for number in range(given.count)]
    outcomes = list(local.ordered_map(judge, tasks, given.workers))
    for damage in DAMAGES:
        counts = Counter(row["reason"] for row in outcomes if row["damage"] == damage)
        print(f"{damage:7}", ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())))
    crashes = [row for row in outcomes if row["reason"] == "E_INTERNAL" or "decoder ended" in row["text"]]
    hangs = [row for row in outcomes if row["seconds"] > HANG_S or "was stopped after" in row["text"]]
    halves = [row for row in outcomes if row["half"]]
    for what, rows in (("crashed", crashes), ("hung", hangs), ("silent half image", halves)):
        for row in rows:
            print(f"  {what}: {row}")
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{row['number']}-{row['name']}").write_bytes(mutant(row["number"], given.seed).data)
    slowest = max(row["seconds"] for row in outcomes)
    print(
        f"{len(outcomes)} mutants: {len(crashes)} crashed, {len(hangs)} hung, {len(halves)} silent half images;"
        f" slowest {slowest:.2f} s"
    )
    raise SystemExit(bool(crashes or hangs or halves))


if __name__ == "__main__":
    main()
