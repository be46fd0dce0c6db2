"""Label maps on disk: lossless TIFF, (H, W) uint16, or int32 where there are more than 65,535 cells."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError

RATIO = 1100  # times its size that deflate may unpack to
LEAST = 1 << 16  # labels that a map of few pixels may go up to
FAULTS = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
          struct.error, zlib.error)  # fmt: skip


def write(path: Path, masks: NDArray[np.int32]) -> None:
    """(H, W) labels as a compressed TIFF, uint16 where all labels fit."""
    import tifffile

    small = masks.astype(np.uint16) if masks.max(initial=0) < 2**16 else masks
    with files.atomic(path) as temporary:
        tifffile.imwrite(temporary, small, compression="zlib", metadata=None, software="")


def read(path: Path) -> NDArray[np.int32]:
    """(H, W) labels of a map that `write` wrote. ConfigError for anything else, before it takes memory."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            whole = page.ndim == 2 and page.dtype is not None and page.dtype.kind in "iu" and len(file.pages) == 1
            if not whole or page.size * page.dtype.itemsize > RATIO * path.stat().st_size:  # type: ignore[union-attr]
                raise ConfigError(f"{path} is no label map; segment again")
            labels = np.asarray(page.asarray(), np.int32)
    except FileNotFoundError:
        raise
    except (*FAULTS, tifffile.TiffFileError) as error:
        raise ConfigError(f"{path} is a damaged label map ({files.one_line(error)}); segment again") from None
    if labels.min(initial=0) < 0 or labels.max(initial=0) > max(LEAST, labels.size):
        raise ConfigError(f"{path} is no label map: its labels are not 1 to at most its number of pixels")
    return labels
