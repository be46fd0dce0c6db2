"""ImageJ's regions of interest, an `.roi` file or a zip of them, as rings of points like those of GeoJSON."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cellvision.io.images.pixels import ImageError, Reason
from cellvision.io.polygons import Ring

SUFFIXES = (".zip", ".roi")
MAX_REGIONS = 1_000_000
MAX_MB = 256  # of all regions of a file, unpacked
WITHOUT_AREA = {"LINE", "FREELINE", "POLYLINE", "NOROI", "ANGLE", "POINT", "UNKNOWN"}
DAMAGED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, struct.error)


def read(path: Path) -> list[list[Ring]]:
    """The closed rings of each region, px from the outer corner of the first pixel; none for lines and points."""
    try:
        return [_rings(data, name) for name, data in _members(path)]
    except OSError as error:
        raise ImageError(Reason.E_IO, f"{path.name} cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, *DAMAGED) as error:
        raise ImageError(
            Reason.E_CORRUPT,
            f"{path.name} holds no ImageJ regions ({str(error)[:80]}); save them again in the ROI Manager",
        ) from None


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every region, none unpacked before its size is known."""
    if not zipfile.is_zipfile(path):
        if path.stat().st_size > MAX_MB * 1e6:
            raise _too_large(path)
        yield path.name, path.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        regions = [member for member in archive.infolist() if member.filename.lower().endswith(".roi")]
        if len(regions) > MAX_REGIONS or sum(member.file_size for member in regions) > MAX_MB * 1e6:
            raise _too_large(path)
        if not regions:
            raise ImageError(
                Reason.E_NOT_IMAGE, f"{path.name} holds no .roi; save one with More > Save in the ROI Manager"
            )
        for member in regions:
            with archive.open(member) as handle:
                yield member.filename, handle.read(member.file_size)


def _too_large(path: Path) -> ImageError:
    return ImageError(Reason.E_TOO_LARGE, f"{path.name} holds more than {MAX_MB} MB of regions; split it")


def _rings(data: bytes, name: str) -> list[Ring]:
    import roifile

    region = roifile.ImagejRoi.frombytes(data)
    if region.roitype.name in WITHOUT_AREA:
        return []
    paths = [np.asarray(points, np.float64).reshape(-1, 2) for points in region.coordinates(multi=True)]
    rings = [points for points in paths if len(points) > 2]
    if not all(np.isfinite(ring).all() and (np.abs(ring) < 2**31).all() for ring in rings):
        raise ValueError(f"{name} has points beyond any image")
    return [np.concatenate([ring, ring[:1]]) if (ring[0] != ring[-1]).any() else ring for ring in rings]
