"""Label maps on disk: lossless TIFF, (H, W) uint16, or int32 where there are more than 65,535 cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files


def write(path: Path, masks: NDArray[np.int32]) -> None:
    """(H, W) labels as a compressed TIFF, uint16 where all labels fit."""
    import tifffile

    small = masks.astype(np.uint16) if masks.max(initial=0) < 2**16 else masks
    with files.atomic(path) as temporary:
        tifffile.imwrite(temporary, small, compression="zlib", metadata=None, software="")


def read(path: Path) -> NDArray[np.int32]:
    import tifffile

    return np.asarray(tifffile.imread(path), np.int32)
