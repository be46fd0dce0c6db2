"""Measurements of cells under CellProfiler's names: shape, place and intensity, one row a cell.

Names and definitions of MeasureObjectSizeShape and MeasureObjectIntensity of CellProfiler 4 (Stirling et al. 2021,
BMC Bioinformatics 22, 433). CellProfiler takes shapes from scikit-image, whose definitions are those of `shapes`.
Quartiles are numpy's. Intensities are 0 to 1 where the file held whole numbers, 1 being the largest its depth can hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import shapes

if TYPE_CHECKING:
    import pandas as pd

Numbers = NDArray[np.float64]  # (n,) one a cell
INTENSITY = (
    "IntegratedIntensity", "LowerQuartileIntensity", "MaxIntensity", "MeanIntensity", "MedianIntensity", "MinIntensity",
    "StdIntensity", "UpperQuartileIntensity",
)  # fmt: skip


def channel_names(count: int) -> tuple[str, ...]:
    """Names for channels that nobody has named."""
    return {1: ("Gray",), 3: ("Red", "Green", "Blue")}.get(count, tuple(f"Ch{number}" for number in range(count)))


def shape_and_place(labels: NDArray[np.integer]) -> pd.DataFrame:
    """(H, W) -> AreaShape_ and Location_ columns in px and degrees, one row a label; the index is the label."""
    import pandas as pd

    runs = shapes.runs_of(labels)
    area, ellipse = shapes.areas(runs), shapes.ellipses(runs)
    low_y, low_x, high_y, high_x = shapes.boxes(runs).T
    box = (high_y - low_y) * (high_x - low_x)
    perimeter, euler = shapes.outlines(labels, runs.names)
    convex = shapes.convex_areas(runs)
    with np.errstate(divide="ignore", invalid="ignore"):
        form = np.where(perimeter > 0, 4 * np.pi * area / perimeter**2, np.nan)
    columns = {
        "Area": area, "BoundingBoxArea": box, "BoundingBoxMaximum_X": high_x, "BoundingBoxMaximum_Y": high_y,
        "BoundingBoxMinimum_X": low_x, "BoundingBoxMinimum_Y": low_y, "Center_X": ellipse.x, "Center_Y": ellipse.y,
        "Compactness": perimeter**2 / (4 * np.pi * area), "ConvexArea": convex, "Eccentricity": ellipse.eccentricity,
        "EquivalentDiameter": np.sqrt(4 * area / np.pi), "EulerNumber": euler, "Extent": area / box,
        "FormFactor": form, "MajorAxisLength": ellipse.major, "MinorAxisLength": ellipse.minor,
        "Orientation": np.degrees(ellipse.orientation), "Perimeter": perimeter, "Solidity": area / convex,
    }  # fmt: skip
    table = pd.DataFrame({f"AreaShape_{name}": columns[name] for name in sorted(columns)}, index=runs.names)
    return table.assign(Location_Center_X=ellipse.x, Location_Center_Y=ellipse.y)


def intensities(labels: NDArray[np.integer], pixels: NDArray[Any], names: tuple[str, ...]) -> pd.DataFrame:
    """(H, W), (H, W, C) in their own depth, C names -> Intensity_<what>_<channel> columns; the index is the label."""
    import pandas as pd

    inside = labels > 0
    present, owner = np.unique(labels[inside], return_inverse=True)
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    columns: dict[str, Numbers] = {}
    for channel, name in enumerate(names):
        statistics = _by_owner(owner, pixels[..., channel][inside], len(present))
        columns |= {f"Intensity_{what}_{name}": column / largest for what, column in statistics.items()}
    return pd.DataFrame(columns, index=present.astype(np.int64))


def _by_owner(owner: NDArray[np.intp], values: NDArray[Any], count: int) -> dict[str, Numbers]:
    """(m,) owners 0..count-1, each at least once, and (m,) values -> each statistic of INTENSITY, (count,)."""
    ranked = _ranked(owner, values)
    size = np.bincount(owner, minlength=count)
    first = np.cumsum(size) - size
    if not count:
        return dict.fromkeys(INTENSITY, np.zeros(0))
    total = np.add.reduceat(ranked, first)
    mean = total / size
    spread = np.add.reduceat((ranked - np.repeat(mean, size)) ** 2, first)
    shares = (("LowerQuartileIntensity", 0.25), ("MedianIntensity", 0.5), ("UpperQuartileIntensity", 0.75))
    quartiles = {what: _quantile(ranked, first, size, share) for what, share in shares}
    return quartiles | {
        "IntegratedIntensity": total, "MaxIntensity": ranked[first + size - 1], "MeanIntensity": mean,
        "MinIntensity": ranked[first], "StdIntensity": np.sqrt(spread / size),
    }  # fmt: skip


def _ranked(owner: NDArray[np.intp], values: NDArray[Any]) -> Numbers:
    """(m,) values by owner, sorted within each."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:  # both fit into one whole number, which sorts faster
        low = np.iinfo(values.dtype).min
        keys = np.sort(owner.astype(np.int64) << 16 | (values.astype(np.int64) - low))
        return ((keys & 0xFFFF) + low).astype(np.float64)
    return values[np.lexsort((values, owner))].astype(np.float64)


def _quantile(ranked: Numbers, first: NDArray[np.int64], count: NDArray[np.int64], share: float) -> Numbers:
    """Sorted stretches -> one quantile each, linear between neighbours."""
    place = share * (count - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, count - 1)
    return ranked[first + low] + (place - low) * (ranked[first + high] - ranked[first + low])
