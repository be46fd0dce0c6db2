"""What a slow segmenter says before it starts: how long all images will take, from tiles that are timed and counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cellvision.core.progress import duration, say
from cellvision.executors import local

LONG_S = 600.0  # from here on the quick way is named


@runtime_checkable
class Slow(Protocol):
    """What a segmenter has beside that needs so much time and memory that a person wants to know beforehand."""

    def processes(self) -> int:
        """How many fit into the memory that is free; at least one."""
        ...

    def lanes(self, processes: int) -> int:
        """How many of these processes do not wait for each other."""
        ...

    def tiles(self, height: int, width: int) -> int:
        """Tiles of an image that go through the network; 0 where it is too small to be looked at."""
        ...

    def tile_seconds(self, pixels: NDArray[np.uint8]) -> float:
        """(H, W, C) uint8 -> seconds a tile in one process, measured on a piece of the image of one or more."""
        ...


def announce(segmenter: Slow, sample: Iterable[NDArray[np.uint8]], images: int, processes: int) -> None:
    """Say in one line how long `images` images will take, of which `sample` is a part, (H, W, C) each."""
    local.one_thread()  # as the processes have it
    counts, seconds = [], 0.0
    for pixels in sample:
        counts.append(segmenter.tiles(*pixels.shape[:2]))
        if counts[-1] and not seconds:
            seconds = segmenter.tile_seconds(pixels)
    if not seconds:
        return
    tiles = round(images * float(np.mean(counts)))
    lanes = segmenter.lanes(min(processes, images))
    left = tiles * seconds / lanes
    hint = "; --segmenter nano is the quick way" if left > LONG_S else ""
    say(f"segment: {tiles} tiles in {images} images, {seconds:.2g} s a tile, {lanes} at once: {duration(left)}{hint}")
