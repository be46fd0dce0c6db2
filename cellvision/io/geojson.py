"""Label maps to and from other programs: QuPath's GeoJSON, and the label maps that others write as TIFF or PNG.

GeoJSON as QuPath 0.4 and newer reads it: one FeatureCollection an image, px from the outer corner of the first pixel.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.io import imagejrois, polygons
from cellvision.io.images.pixels import ImageError, Limits, Reason
from cellvision.io.images.reader import read_image

if TYPE_CHECKING:
    import pandas as pd

LABEL = "mask_label"  # the measurement that carries a cell's number through other programs
IMAGE_SUFFIXES = (".tif", ".tiff", ".png")
GEOJSON_SUFFIXES = (".geojson", ".json")
INSTEAD_OF_PICKLES = (
    "save label maps instead: in Cellpose File > Save masks as PNG/tif, or cellpose --save_tif, or"
    " cellpose.io.save_masks(…, tif=True)"
)
ALTERED = re.compile(r"planes \(|inverted|stretched|composited|median")  # what the reader says when labels are no more
MAX_JSON_MB = 512
MAX_PAINTED = 1 << 31  # px of all boxes around the shapes of a file
AROUND = 3  # shapes in one that is no cell: a cell may have a nucleus or two
LARGEST = 2**31 - 1  # label, and px of a coordinate
SHAPES = {"Polygon": lambda rings: [rings], "MultiPolygon": list}


@dataclass(frozen=True, eq=False)
class Outlines:
    """What a file held: (H, W) int32 labels, the class of each label that has one, and notes for a person."""

    labels: NDArray[np.int32]
    classes: dict[int, str]
    notes: tuple[str, ...]


# -- writing ------------------------------------------------------------------------------------------------------


def features(
    labels: NDArray[np.integer], cells: pd.DataFrame, kind: str, measured: Iterable[str], described: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """(H, W) labels and a row for each cell to be told of -> one GeoJSON feature a cell.

    `cells` has mask_label, item_id and, where known, classification; `measured` columns become numbers, `described`
    ones text. `kind` is QuPath's objectType: detection, cell or annotation.
    """
    outlines = polygons.trace(labels)
    measured, described = tuple(measured), tuple(described)
    for row in cells.to_dict("records"):
        number = int(row[LABEL])
        properties: dict[str, Any] = {"objectType": kind, "name": str(row["item_id"])}
        if _known(row.get("classification")):
            properties["classification"] = {"name": str(row["classification"]), "color": colour(row["classification"])}
        numbers = {name: float(row[name]) for name in measured if _known(row[name])}
        properties["measurements"] = {LABEL: number} | {k: v for k, v in numbers.items() if math.isfinite(v)}
        properties["metadata"] = {name: str(row[name]) for name in described if _known(row[name])}
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"cellvision:{row['item_id']}")),
            "geometry": geometry(outlines[number]),
            "properties": properties,
        }


def _known(value: Any) -> bool:
    return value is not None and value == value and value != ""


def geometry(parts: list[polygons.Polygon]) -> dict[str, Any]:
    """The polygons of one cell as GeoJSON."""
    coordinates = [[ring.tolist() for ring in polygon] for polygon in parts]
    if len(coordinates) == 1:
        return {"type": "Polygon", "coordinates": coordinates[0]}
    return {"type": "MultiPolygon", "coordinates": coordinates}


def colour(name: Any) -> list[int]:
    """A colour of a class that depends on its name alone: saturated, neither dark nor pale."""
    import colorsys

    turn = int(uuid.uuid5(uuid.NAMESPACE_URL, str(name)).hex[:8], 16) / 2**32
    return [round(255 * channel) for channel in colorsys.hsv_to_rgb(turn, 0.8, 0.85)]


def write_geojson(path: Path, found: Iterable[dict[str, Any]], image: Mapping[str, Any]) -> int:
    """Features as one FeatureCollection, a line each; `image` (path, height, width …) stands beside them. -> count."""
    count = 0
    with files.atomic(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace") as handle:
        about = json.dumps(files.plain(dict(image)), ensure_ascii=False, allow_nan=False)
        handle.write(f'{{"type":"FeatureCollection","image":{about},"features":[')
        for feature in found:
            line = json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            handle.write(f"{',' if count else ''}\n{line}")
            count += 1
        handle.write("\n]}\n")
    return count


# -- reading ------------------------------------------------------------------------------------------------------


def read_labels(path: Path, shape: tuple[int, int] | None = None, limits: Limits | None = None) -> Outlines:
    """A label map from TIFF, PNG, GeoJSON or ImageJ's regions; `shape`, (H, W), is the image's, and must be the map's.

    Raises ImageError for what cannot be read as labels, UnsafeInput for a file that may hold a pickle.
    """
    suffix = path.suffix.lower()
    files.refuse_pickled(path, INSTEAD_OF_PICKLES)
    if suffix in GEOJSON_SUFFIXES:
        return read_geojson(path, shape, limits)
    if suffix in imagejrois.SUFFIXES:
        return read_regions(path, shape, limits)
    labels, notes = _read_image_labels(path, limits or Limits(min_side=1))
    if shape is not None and labels.shape != tuple(shape):
        raise _wrong_size(path, labels.shape, shape)
    return Outlines(labels, {}, notes)


def _read_image_labels(path: Path, limits: Limits) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    image = read_image(path, limits=limits, labels=True)
    if image.pixels.shape[2] != 1:
        raise ImageError(
            Reason.E_CHANNELS,
            f"{path.name} holds colours, not labels; save it as 16-bit grey TIFF (in ImageJ set the Grays table first)",
        )
    altered = next((note for note in image.notes if ALTERED.search(note)), None)
    if altered:
        raise ImageError(
            Reason.E_CORRUPT, f"{path.name} is no plain label map ({altered}); save one plane of whole numbers from 0"
        )
    values = image.pixels[..., 0]
    whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    if not whole or values.min() < 0 or values.max() > LARGEST:
        raise ImageError(
            Reason.E_DTYPE,
            f"{path.name} holds values from {values.min():g} to {values.max():g};"
            f" labels are whole numbers from 0 to {LARGEST}",
        )
    return values.astype(np.int32), image.notes


def read_regions(path: Path, shape: tuple[int, int] | None, limits: Limits | None = None) -> Outlines:
    """ImageJ's regions of interest -> labels in their order; `shape`, (H, W), is the image's. Raises ImageError."""
    shapes = imagejrois.read(path)
    labels, notes = _drawn(shapes, [0] * len(shapes), _shape_for(None, shape, path), path, limits)[:2]
    return Outlines(labels, {}, notes)


def read_geojson(path: Path, shape: tuple[int, int] | None = None, limits: Limits | None = None) -> Outlines:
    """Polygons of a GeoJSON file -> labels; `shape`, (H, W), may be left out where the file itself tells it.

    A label is the feature's mask_label where it has one that no earlier feature has, else a new number. Smaller shapes
    lie on larger ones. Points, lines and empty shapes are left out and counted. Raises ImageError.
    """
    document = _load_json(path)
    feature_list = document.get("features") if isinstance(document, dict) else document
    if not isinstance(feature_list, list):
        raise ImageError(Reason.E_NOT_IMAGE, f"{path.name} holds no GeoJSON FeatureCollection; export one from QuPath")
    shape = _shape_for(document, shape, path)
    shapes = [_shape_of(feature, number, path) for number, feature in enumerate(feature_list)]
    told = [_label_of(feature) if rings else 0 for feature, rings in zip(feature_list, shapes, strict=True)]
    labels, notes, numbers = _drawn(shapes, told, shape, path, limits)
    present = set(np.unique(labels).tolist())
    classes = {
        number: name
        for feature, number in zip(feature_list, numbers, strict=True)
        if number in present and (name := _class_of(feature))
    }
    return Outlines(labels, classes, notes)


def _drawn(
    shapes: list[list[polygons.Ring]], told: list[int], shape: tuple[int, int], path: Path, limits: Limits | None
) -> tuple[NDArray[np.int32], tuple[str, ...], list[int]]:
    """(H, W) labels of shapes under the numbers told or new ones, notes for a person, and the numbers."""
    limits = limits or Limits()
    if shape[0] * shape[1] > limits.max_megapixels * 1e6:
        raise ImageError(Reason.E_TOO_LARGE, f"{path.name} is for {shape[1]} x {shape[0]} px; raise max_megapixels")
    left_out = sum(not rings for rings in shapes)
    around = _around_others(shapes)
    shapes = [[] if place in around else rings for place, rings in enumerate(shapes)]
    numbers = _numbered([number if rings else 0 for number, rings in zip(told, shapes, strict=True)])
    labels, hidden = _painted(shapes, numbers, shape, path)
    present = set(np.unique(labels).tolist())
    lost = sum(bool(rings) and number not in present for rings, number in zip(shapes, numbers, strict=True))
    notes = [
        f"{count} {what}"
        for count, what in (
            (left_out, "features without an area left out"),
            (len(around), "regions around other shapes left out"),
            (hidden, "pixels lie in several shapes and belong to the smallest"),
            (lost, "shapes hold no pixel of the image"),
        )
        if count
    ]
    return labels, tuple(notes), numbers


def _around_others(shapes: list[list[polygons.Ring]]) -> set[int]:
    """Which shapes hold AROUND others or more, by the middles of their boxes: regions of interest, not cells."""
    places = [place for place, rings in enumerate(shapes) if rings]
    if len(places) <= AROUND:
        return set()
    boxes = np.array([[edge(np.concatenate(shapes[place]), 0) for edge in (np.min, np.max)] for place in places])
    middles, sizes = boxes.mean(1), np.ptp(boxes, axis=1).prod(1)
    around = set()
    for number in np.flatnonzero(sizes > AROUND * np.median(sizes)):
        inside = ((middles > boxes[number, 0]) & (middles < boxes[number, 1])).all(1) & (sizes < sizes[number])
        held_middles = middles[inside]
        if len(held_middles) >= AROUND and polygons.holds(shapes[places[number]], held_middles).sum() >= AROUND:
            around.add(places[number])
    return around


def _load_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_MB * 1e6:
            raise ImageError(Reason.E_TOO_LARGE, f"{path.name} has more than {MAX_JSON_MB} MB; split it")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ImageError(Reason.E_IO, f"{path.name} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ImageError(Reason.E_CORRUPT, f"{path.name} is no valid JSON ({str(error)[:80]})") from None


def _shape_for(document: Any, shape: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    """(H, W) as asked for or as the file tells it; the two must agree."""
    about = document.get("image") if isinstance(document, dict) else None
    sides = [about.get(name) for name in ("height", "width")] if isinstance(about, dict) else []
    whole = [side for side in sides if isinstance(side, int) and side > 0]
    stated = (whole[0], whole[1]) if len(whole) == 2 else None
    if shape is None and stated is None:
        raise ImageError(Reason.E_CORRUPT, f"{path.name} does not tell the size of its image; say it")
    if shape is not None and stated is not None and stated != tuple(shape):
        raise _wrong_size(path, stated, shape)
    return shape or stated  # type: ignore[return-value]


def _wrong_size(path: Path, found: tuple[int, ...], shape: tuple[int, int]) -> ImageError:
    return ImageError(
        Reason.E_CORRUPT,
        f"{path.name} is for {found[1]} x {found[0]} px, its image has {shape[1]} x {shape[0]} px;"
        " give the label map of the whole image",
    )


def _shape_of(feature: Any, number: int, path: Path) -> list[polygons.Ring]:
    """All rings of one feature, which the even-odd rule then tells apart; none for points and lines."""
    form = feature.get("geometry") if isinstance(feature, dict) else None
    kind = form.get("type") if isinstance(form, dict) else None
    if not isinstance(form, dict) or not isinstance(kind, str) or kind not in SHAPES:
        return []
    try:
        parts = SHAPES[str(kind)](form["coordinates"])
        rings = [np.array([point[:2] for point in ring], np.float64) for polygon in parts for ring in polygon]
        good = all(
            ring.ndim == 2 and ring.shape[1] == 2 and len(ring) > 2 and bool((np.abs(ring) < LARGEST).all())
            for ring in rings
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise ImageError(
            Reason.E_CORRUPT, f"{path.name}, feature {number + 1}: the coordinates are no rings of points; export again"
        )
    return [np.concatenate([ring, ring[:1]]) if (ring[0] != ring[-1]).any() else ring for ring in rings]


def _label_of(feature: Any) -> int:
    """The label a feature brings with it, as QuPath 0.4 and newer, or an older one, writes measurements; else 0."""
    properties = feature.get("properties")
    measurements = properties.get("measurements") if isinstance(properties, dict) else None
    if isinstance(measurements, list):
        measurements = {entry.get("name"): entry.get("value") for entry in measurements if isinstance(entry, dict)}
    value = measurements.get(LABEL) if isinstance(measurements, dict) else None
    good = isinstance(value, (int, float)) and 0 < value <= LARGEST and value == int(value)
    return int(value) if good and value is not None else 0


def _numbered(told: list[int]) -> list[int]:
    """Labels as told, the first of equals keeps it; the others get numbers above all of them."""
    if max(told, default=0) + len(told) > LARGEST:
        return list(range(1, len(told) + 1))
    seen: set[int] = set()
    fresh = max(told, default=0)
    numbers = []
    for number in told:
        if number == 0 or number in seen:
            fresh += 1
            number = fresh
        seen.add(number)
        numbers.append(number)
    return numbers


def _painted(
    shapes: list[list[polygons.Ring]], numbers: list[int], shape: tuple[int, int], path: Path
) -> tuple[NDArray[np.int32], int]:
    """(H, W) labels, larger shapes first, and how many pixels were painted over."""
    labels = np.zeros(shape, np.int32)
    boxes = {place: _box_px(rings, shape) for place, rings in enumerate(shapes) if rings}
    if sum(boxes.values()) > MAX_PAINTED:
        raise ImageError(Reason.E_TOO_LARGE, f"{path.name}: the shapes cover the image too often; split the file")
    hidden = 0
    for place in sorted(boxes, key=lambda place: -boxes[place]):
        try:
            window, inside = polygons.fill(shapes[place], shape)
        except ValueError as error:
            raise ImageError(Reason.E_TOO_LARGE, f"{path.name}: {error}; simplify the outlines") from None
        under = labels[window]
        hidden += int((under[inside] > 0).sum())
        under[inside] = numbers[place]
    return labels, hidden


def _box_px(rings: list[polygons.Ring], shape: tuple[int, int]) -> int:
    """Area of the box around a shape, inside the image."""
    points = np.concatenate(rings)
    low, high = (np.clip(edge, 0, shape[::-1]) for edge in (points.min(0), points.max(0)))
    return math.prod(int(side) + 1 for side in high - low)


def _class_of(feature: Any) -> str | None:
    properties = feature.get("properties")
    named = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(named, dict):
        names = named.get("names")
        named = named.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return str(named) if named else None
