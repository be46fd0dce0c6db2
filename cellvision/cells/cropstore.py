"""Crops on disk: shards of (n, S, S, C+1) uint8, the mask last, written in one stream and read memory-mapped."""

from __future__ import annotations

import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput

if TYPE_CHECKING:
    pass

SHARD_ROWS = 4096


def pack_crops(parts: Iterable[NDArray[np.uint8]], folder: Path, total: int, shape: tuple[int, ...]) -> None:
    """Stream parts, each (n_i, S, S, C+1) and in image order, into shards of SHARD_ROWS rows."""
    stream = iter(parts)
    left: NDArray[np.uint8] = np.empty((0, *shape), np.uint8)
    for number, start in enumerate(range(0, total, SHARD_ROWS)):
        rows = min(SHARD_ROWS, total - start)
        with files.atomic(folder / f"{number:05d}.npy") as temporary, temporary.open("wb") as handle:
            header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
            np.lib.format.write_array_header_1_0(handle, header)
            while rows:
                while not len(left):
                    left = next(stream)
                taken, left = left[:rows], left[rows:]
                handle.write(taken.tobytes())
                rows -= len(taken)


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A shard as a plain array, since indexing a np.memmap object is slow. ConfigError for what is none."""
    try:
        shard = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (EOFError, SyntaxError, TypeError, ValueError, tokenize.TokenError) as error:
        raise ConfigError(f"{path} is damaged ({files.one_line(error)}); segment again") from None
    if shard.ndim != 4 or shard.dtype != np.uint8:
        raise ConfigError(f"{path} holds no crops, but {shard.dtype} of shape {shard.shape}")
    return shard


class Crops:
    """Random reads from the shards of one segment run; opened lazily, so that it travels to worker processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[NDArray[np.uint8]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_shards": None}

    @property
    def shards(self) -> list[NDArray[np.uint8]]:
        if self._shards is None:
            self._shards = [_mapped(path) for path in sorted(self.folder.glob("*.npy"))]
        return self._shards

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, S, C+1) of one crop."""
        if not self.shards:
            raise NoUsableInput(f"no crops in {self.folder}")
        return tuple(self.shards[0].shape[1:])

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n,) global rows -> (n, S, S, C+1), a copy in the order asked for."""
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape), np.uint8)
        shards = self.shards
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ConfigError(f"the table names crop {rows.max()}, but {self.folder} holds {len(self)}")
        for position, row in enumerate(rows.tolist()):
            out[position] = shards[row // SHARD_ROWS][row % SHARD_ROWS]
        return out
