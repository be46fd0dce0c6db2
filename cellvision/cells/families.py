"""Families of image files: frames, z-slices and channels of one field that are files of their own, and plates.

Files are one family where they lie in one group, are named alike but for these axes, have the same size, and at least
one axis varies. Their unit is then the field: they show the same cells, or their neighbours, again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from cellvision.cells import repeats
from cellvision.io import acquisition, outputs
from cellvision.io.acquisition import AXES, WITHIN_FIELD

if TYPE_CHECKING:
    import pandas as pd

NOUNS = {"t": "frames", "z": "z-slices", "channel": "channels"}
LISTED = 4  # values of an axis that are named one by one


def found(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of images.parquet -> image_id, unit, and those of AXES that any name tells; the unit is the image or field.

    Of a file without family only the place on a plate is told, and only where wells vary.
    """
    import pandas as pd

    read = images[images["status"] == "ok"]
    places = zip(read["path"], read["group"], strict=True)
    names = acquisition.parse_all([below_group(path, group) for path, group in places])
    told_axes = [[name.axes.get(axis) for axis in AXES] for name in names]
    table = pd.DataFrame(told_axes, read.index, AXES, dtype=object).assign(field=[name.field for name in names])
    table[["image_id", "group", "height", "width"]] = read[["image_id", "group", "height", "width"]]
    is_named = np.array([any(map(str.isalnum, name.field)) for name in names], bool)
    same = table.groupby(["group", "field", "height", "width"], dropna=False)
    varies = [same[axis].transform("nunique").gt(1) for axis in WITHIN_FIELD]
    in_family = pd.concat(varies, axis=1).any(axis=1) & is_named
    on_plate = table["well"].notna() & (table["well"].nunique() > 1)
    table.loc[~in_family, list(WITHIN_FIELD)] = None
    table.loc[~(in_family | on_plate), ["plate", "well", "site"]] = None
    sized = same["field"].transform("size").lt(table.groupby(["group", "field"])["field"].transform("size"))
    name = (table["group"] + "/" + table["field"]).where(~sized, table["group"] + "/" + table["field"] + _size(table))
    table["unit"] = name.where(in_family, table["image_id"])
    return table[["image_id", "unit", *(axis for axis in AXES if table[axis].notna().any())]]


def _size(table: pd.DataFrame) -> pd.Series:
    return " (" + table["height"].astype(str) + " x " + table["width"].astype(str) + ")"


def in_units(images: pd.DataFrame, cells: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with the unit of each image, its field where a family of files shows it, and its place on a plate.

    Thumbnails of other images have no cells.
    """
    images = repeats.without_thumbnails(images)
    cells = cells[cells["image_id"].isin(images.loc[images["status"] == "ok", "image_id"])]
    family = found(images)
    return images.merge(family, on="image_id", how="left"), cells.merge(family, on="image_id", how="left")


def below_group(path: str, group: str) -> str:
    return path.removeprefix(f"{group}/")


def told(table: pd.DataFrame, *, joining: bool = True) -> Iterator[str]:
    """Columns source_id, unit and AXES, a row an image or an item -> lines about families and plates, if there are any.

    joining: whether the person can still be told of --join-channels.
    """
    axes = [axis for axis in WITHIN_FIELD if axis in table and table[axis].notna().any()]
    sources = table.drop_duplicates("source_id")
    members = sources[sources[axes].notna().any(axis=1)] if axes else sources.iloc[:0]
    if len(members):
        fields = members.groupby("unit")
        parts = [_described(axis, members, fields[axis].nunique()) for axis in axes]
        line = f"{len(members)} files are {fields.ngroups} fields of {' and '.join(filter(None, parts))}"
        channels = "channel" in axes and joining
        hint = "; --join-channels makes the channels of a field one image" if channels else ""
        yield f"{line}; the unit is the field{hint}"
    if "well" in sources and sources["well"].notna().any():
        wells = sources.dropna(subset="well")
        plates = wells["plate"].nunique() if "plate" in wells else 0
        where = f" on {plates} plates" if plates else ""
        yield f"names tell {wells['well'].nunique()} wells{where}; --unit well or plate makes them the units"


def outputs_told(groups: Iterable[str]) -> Iterator[str]:
    """Lines about groups that are called like what other programs write."""
    for group in sorted(name for name in set(groups) if name.lower() in outputs.FOLDERS):
        yield f"the group {group!r} is called like outputs of another program; move it elsewhere if it holds no images"


def _described(axis: str, members: pd.DataFrame, counts: pd.Series) -> str:
    """`8 frames (t 00 to 07)`, empty where no field has two."""
    low, high = int(counts[counts > 0].min()), int(counts.max())
    if high < 2:
        return ""
    values = sorted(members[axis].dropna().unique(), key=lambda value: (len(value) if value.isdigit() else 0, value))
    shown = ", ".join(values) if len(values) <= LISTED and axis == "channel" else f"{values[0]} to {values[-1]}"
    number = f"{high}" if low == high else f"{low} to {high}"
    return f"{number} {NOUNS[axis]} ({axis} {shown})"
