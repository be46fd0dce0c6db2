"""Masks that somebody already has, in place of a segmenter: which belongs to an image, and its cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.config import fingerprint
from cellvision.core.errors import NoUsableInput
from cellvision.io import geojson
from cellvision.io.components import components
from cellvision.io.images.pixels import ImageError, Limits, Reason
from cellvision.io.rawfolder import Entry
from cellvision.segmenters import Segmentation, in_raster_order

NAME = "masks"  # in the place of a segmenter's
BINARY = (1, 255, 65535)  # the one value of a mask that does not tell cells apart
PICKLED = ("_seg.npy", "_seg.npz")  # what Cellpose writes beside an image


def with_maps(entries: Iterable[Entry], maps: Iterable[list[Path]], folder: Path) -> list[Entry]:
    """Entries with the label maps that may be theirs, one where all is well. NoUsableInput where none has one."""
    entries = [replace(entry, maps=tuple(paths)) for entry, paths in zip(entries, maps, strict=True)]
    if not any(entry.maps for entry in entries if entry.status == "ok"):
        first = next(entry.relative for entry in entries if entry.status == "ok")
        raise NoUsableInput(f"no label map below {folder} belongs to an image; {first!r} wants one of its name")
    return entries


def identity(entries: Iterable[Entry]) -> str:
    """What the masks of these images depend on: which file each has, and its content."""
    return fingerprint([[entry.relative, *map(files.hash_or_reason, entry.maps)] for entry in entries if entry.maps])


def cells_of(entry: Entry, shape: tuple[int, int], folder: Path, limits: Limits, whole: bool) -> Segmentation:
    """The cells of an image of (H, W) from its label map; `whole`: one label is one object, in pieces or not.

    ImageError says why there are none.
    """
    if len(entry.maps) != 1:
        raise ImageError(Reason.E_NO_MASK, _why_not_one(entry, folder))
    outlines = geojson.read_labels(entry.maps[0], shape, limits)
    labels, notes = (outlines.labels, ()) if whole else apart(outlines.labels)
    return Segmentation(in_raster_order(labels)[0], notes=(*outlines.notes, *notes))


def _why_not_one(entry: Entry, folder: Path) -> str:
    if entry.maps:
        names = ", ".join(path.name for path in dict.fromkeys(entry.maps))
        return f"several label maps may belong to it, or one to several images ({names}); leave one of its name"
    stem = folder / Path(entry.relative).with_suffix("")
    pickled = next((ending for ending in PICKLED if stem.with_name(stem.name + ending).is_file()), None)
    if pickled:
        return f"{stem.name}{pickled} may hold code (a pickle) and is never loaded; {geojson.INSTEAD_OF_PICKLES}"
    return "no label map of its name, which may also end in _cp_masks, _masks or _label"


def apart(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """(H, W) -> labels; the pieces of a binary mask become cells, and a note says so."""
    values = np.unique(labels[labels > 0])
    pieces = components(labels > 0, 8) if len(values) == 1 and values[0] in BINARY else labels
    if pieces is labels or pieces.max() < 2:
        return labels, ()
    return pieces, ("the mask is binary: each of its pieces is taken for a cell",)
