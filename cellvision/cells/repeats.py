"""Thumbnails: an image that is another one of its group again, much smaller, brings no cells of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellvision.cells import hygiene
from cellvision.io.images import prints
from cellvision.io.images.pixels import Reason

if TYPE_CHECKING:
    import pandas as pd

SMALLER = 0.5  # of the side of the largest copy, from which on an image is a thumbnail


def without_thumbnails(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of images.parquet, those of thumbnails ignored, with the reason."""
    read = images[(images["status"] == "ok") & (images["source_print"] != "")]
    if read.empty:
        return images
    side = (read["height"].astype(float) * read["width"].astype(float)) ** 0.5
    copies = side.groupby([read["group"], prints.joined(read["source_print"].tolist())])
    small = read.index[side <= SMALLER * copies.transform("max")]
    original = images.loc[copies.transform("idxmax")[small], "path"].to_numpy()
    images = images.copy()
    images.loc[small, "status"] = "ignored"
    images.loc[small, "reason"] = str(Reason.E_DUPLICATE)
    images.loc[small, "note"] = [f"a thumbnail of {path}" for path in original]
    for name, empty in hygiene.EMPTY.items():
        images.loc[small, name] = empty
    return images
