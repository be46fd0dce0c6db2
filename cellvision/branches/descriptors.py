"""Columns that describe an item instead of measuring it, by the names that programs give them.

Where a cell lies, in which picture and which number it got say nothing of what it is, but where a class fills a
picture, a plate or a stretch of rows they give it away. CellProfiler, QuPath, Fiji, TrackMate, scikit-image, ilastik,
Harmony and the tools around them are covered by a few kinds of names, not by lists.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable

PLACE = r"(?:centroid|cent(?:er|re)(?: of the object| of mass)?|position|pos|location|coord(?:inate)?s?)"
BOX = r"(?:bbox|bounding[\W_]?box)"
SORT = r"(?:[\W_]*(?:weighted|min(?:imum)?|max(?:imum)?|mass|global))*"
UNITS = r"(?:[\W_]+(?:[µμ]?m|um|nm|mm|px|pixels?|microns?))?[\W_]*"
BEGIN = r"(?:.*[\W_])?"
KINDS = (
    # CellProfiler
    r"(?:Image_)?(?:Metadata|FileName|PathName|URL|MD5Digest|ExecutionTime|ModuleError)_.*",
    r"Image_(?:Group|Series|Frame|Channel|Height|Width|Scaling|ProcessingStatus).*",
    r"(?:\w+_)?(?:Image|Object|Table|Group)_?(?:Number|ID|Index)",
    r"(?:\w+_)?(?:Location_|AreaShape_Center_|AreaShape_BoundingBoxM).*",
    r"(?:\w+_)?(?:Parent_|Children_|Neighbors_\w+ObjectNumber|TrackObjects_(?:Label|Parent)).*",
    # places: centroid-0, Centroid X µm, weighted_centroid-1, POSITION_X, X_centroid, Bounding Box Minimum_0, x_um
    rf"(?i:{BEGIN}(?:weighted_)?{PLACE}{SORT}[\W_]*(?:x|y|z|t|row|col|column){UNITS})",
    rf"(?i:{BEGIN}(?:weighted_)?(?:centroid|cent(?:er|re)(?: of the object)?|{BOX}|coords){SORT}[\W_]*\d+{UNITS})",
    rf"(?i:(?:x|y|z|row|column)[\W_]*{PLACE}{SORT}{UNITS})",
    rf"(?i:{BEGIN}{BOX}(?:[\W_]*(?:x|y|z|left|right|top|bottom|width|height|row|col))*(?:[\W_]*(?:min|max)(?:imum)?)?)",
    r"(?i:[xyz][\W_]*(?:[µμ]m|um|px|pixels?|microns?|min|max|start|end|location)[\W_]*)",
    r"(?i:\w+_[xyz]_location)",
    # Fiji's Results
    r"[XYZ]M|B[XY]|[XYZ]Start|Feret[XY]|(?i:slice|frame|ch|label|visibility)",
    # numbers of things: ID, TRACK_ID, CellID, object_id, Object No, track_index, labelimage_oid
    rf"(?i:{BEGIN}(?:o?ids?|idx|no\.?|nr\.?))|\w*[a-z]I[Dd]|(?i:index)",
    r"(?i:(?:.*[\W_])?(?:image|object|cell|row|track|spot|group|frame|table|field|site|nucleus|label)[\W_]?(?:index|number|num))",
    # codes of a layout, and times of a film
    r"(?i:row|col|column|field|fov|site|position|well|plate|plane|stage|timepoint|time[\W_]?point|timestep|batch|replicate)",
    r"(?i:(?:track|edge)_(?:start|stop|time)|(?:manual_)?(?:spot_|edge_|track_)?(?:manual_)?color)",
)
DESCRIPTOR = re.compile("|".join(f"(?:{kind})" for kind in KINDS))
AXES = re.compile(r"[XYZxyz]")


def is_descriptor(name: str, include: tuple[str, ...] = ()) -> bool:
    """A column that describes a row (plate, well, file, running number, place), unless a pattern includes it."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in include):
        return False
    return DESCRIPTOR.fullmatch(name.strip()) is not None


def axes(names: Iterable[str], include: tuple[str, ...] = ()) -> Collection[str]:
    """X and Y, where both stand in a table: a place. One of them alone may measure something."""
    single = [name for name in names if AXES.fullmatch(name.strip())]
    pair = {name.strip().lower() for name in single} >= {"x", "y"}
    return {name for name in single if pair and not any(fnmatch.fnmatchcase(name, pattern) for pattern in include)}
