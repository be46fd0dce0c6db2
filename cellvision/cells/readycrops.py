"""Ready single-cell crops with a metadata table -> the same artifacts as a segmented folder, without masks to find.

The metadata CSV has a column `image` (path under the crops folder) and `label` (the crop's true label); every other
column is kept. The mask of a ready crop is all of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import brightness, crop, cropstore
from cellvision.cells.pixels import GREY_OR_RGB, ReadConfig, choose_ranges, names_of_channels, ranges_of, read_as
from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say, track
from cellvision.executors import local
from cellvision.io import filenames, tables
from cellvision.io.images.intensity import intensity_range, pixel_hash, to_uint8
from cellvision.io.images.prints import print_of
from cellvision.io.images.reader import ImageError, Reason
from cellvision.io.spelling import first_spelling, told

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 64  # files a task


def read_metadata(metadata: Path, unit: str | None) -> pd.DataFrame:
    """One row a crop, sorted by image, everything text as it was written.

    ConfigError for missing columns, a row without an image, or an image named twice.
    """
    table = tables.read_text(metadata, [name for name in ("image", "label", unit) if name])
    if unit:
        homeless = table[unit].fillna("").str.strip().eq("")
        count = int(homeless.sum())
        tables.refuse(metadata, homeless, f", column {unit!r}: {count} crops have no unit; name it, or leave them out")
    tables.refuse(metadata, table["image"].isna(), ", column 'image': no image is named")
    table["label"] = tables.labels(metadata, ["label"])["label"].to_numpy()
    empty = table["label"].isna().to_numpy()
    if empty.any():
        where = tables.lines(metadata, np.flatnonzero(empty).tolist())
        say(f"crops: {int(empty.sum())} have no label ({metadata.name}, {where})")
    if unit and (line := told(table[unit], "units")):
        say(f"crops: {line}")
    return _once(table, metadata)


def below(folder: Path, table: pd.DataFrame, metadata: Path) -> pd.DataFrame:
    """The metadata with the path of each crop below the folder; a name without a file stays, and becomes a row.

    ConfigError where no name is that of a file, or two are that of one.
    """
    given = table["image"].tolist()
    if all((folder / name).is_file() for name in given):
        return table
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    positions = filenames.match(given, there)
    filenames.refuse_strangers(given, positions, there, str(metadata))
    names = [name if at is None else there[at] for name, at in zip(given, positions, strict=True)]
    return _once(table.assign(image=names), metadata)


def _once(table: pd.DataFrame, metadata: Path) -> pd.DataFrame:
    repeated = table["image"][table["image"].duplicated()]
    if len(repeated):
        raise ConfigError(f"{metadata} names the image {repeated.iloc[0]!r} more than once")
    return table.sort_values("image", ignore_index=True)


def load(task: tuple[Path, list[str], ReadConfig]) -> list[dict[str, Any]]:
    """Decode some crops; a file that cannot be read becomes a row with its reason and no pixels."""
    folder, names, how = task
    root = folder.resolve()
    rows = []
    for name in names:
        path = folder / name
        row: dict[str, Any] = {
            "path": name, "status": "ok", "reason": str(Reason.OK), "note": "", "pixels": None, "source_print": "",
            "channel_names": None, **brightness.UNMEASURED,
        }  # fmt: skip
        try:
            if root not in path.resolve().parents:
                raise ImageError(Reason.E_UNSAFE, "lies outside the crops folder")
            image = read_as(path, how)
            row |= {"pixels": image.pixels, "pixel_hash": pixel_hash(image.pixels), "sha256": image.sha256}
            row["source_print"] = print_of(to_uint8(image.pixels, intensity_range(image.pixels)))
            row |= {"channel_names": list(image.channel_names) or None, **brightness.measured(image)}
        except ImageError as error:
            row |= {"status": "skipped", "reason": str(error.reason), "note": str(error)}
        rows.append(row)
    return rows


def gather(
    folder: Path, table: pd.DataFrame, unit: str | None, max_size: int, read: ReadConfig, workers: int, out: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write crops/ and geometry.json; -> the images and the cells table."""
    import pandas as pd

    names = table["image"].tolist()
    tasks = [(folder, names[start : start + CHUNK], read) for start in range(0, len(names), CHUNK)]
    parts = track(local.ordered_map(load, tasks, min(workers, len(tasks))), "read crops", len(tasks), "parts")
    rows = [row for batch in parts for row in batch]
    good = of_one_kind(rows)
    size = min(max_size, max(max(row["pixels"].shape[:2]) for row in good))
    channels = max(row["pixels"].shape[2] for row in good)
    cells = describe(good, table.set_index("image"), unit, size)
    images = pd.DataFrame([{key: value for key, value in row.items() if key != "pixels"} for row in rows])
    images = images.assign(
        group=[group_of(name) for name in images["path"]], n_cells=(images["status"] == "ok").astype(int),
        image_id=images["path"], n_dropped=0,
    )  # fmt: skip
    units = cells.set_index("item_id")["unit"]
    unit_of = images["path"].map(units).fillna(images["path"])
    chosen, intensity = choose_ranges(images.assign(unit=unit_of), images["status"] == "ok", read)
    ranges = map(ranges_of, chosen[images["status"] == "ok"].to_dict("records"))
    placed = (
        place(to_uint8(row["pixels"], pairs), size, channels)[None] for row, pairs in zip(good, ranges, strict=True)
    )
    cropstore.pack_crops(placed, out / "crops", len(good), (size, size, channels + 1))
    geometry = {"size": size, "scale": 1.0, "context": 0.0, "channels": channels, "intensity": intensity}
    names = names_of_channels(images[images["status"] == "ok"])
    files.write_json(out / "geometry.json", geometry | {"channel_names": names})
    return chosen.drop(columns="unit"), cells


def of_one_kind(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The crops that were read; one with some of the channels of the others is skipped, a grey one is not.

    NoUsableInput where none is left.
    """
    read = [row for row in rows if row["status"] == "ok"]
    if not read:
        raise NoUsableInput(f"none of the {len(rows)} crops can be read; the first: {rows[0]['note']}")
    channels = max(row["pixels"].shape[2] for row in read)
    for row in read:
        count = row["pixels"].shape[2]
        if count not in (1, channels):
            note = f"{count} channels, others have {channels}; say which to use with --channels"
            row |= {"status": "skipped", "reason": str(Reason.E_CHANNELS), "note": note, "pixels": None}
    if channels not in GREY_OR_RGB:
        say(f"crops: all {channels} channels are kept; --channels picks some")
    return [row for row in read if row["status"] == "ok"]


def describe(good: list[dict[str, Any]], metadata: pd.DataFrame, unit: str | None, size: int) -> pd.DataFrame:
    """The cells table of ready crops: the unit is the source they were cut from, none where nobody has named it."""
    import pandas as pd

    crops = metadata.loc[[row["path"] for row in good]].reset_index()
    sides = np.array([row["pixels"].shape[:2] for row in good])
    position = np.arange(len(good))
    source = crops[unit].astype(str).map(first_spelling(crops[unit].astype(str))) if unit else crops["image"]
    cells = pd.DataFrame({
        "item_id": crops["image"], "source_id": source, "unit": source if unit else None,
        "source_hash": [row["pixel_hash"] for row in good], "source_print": [row["source_print"] for row in good],
        "group": crops["group"] if "group" in crops else [group_of(name) for name in crops["image"]],
        "path": crops["image"],
        "y": sides[:, 0] / 2, "x": sides[:, 1] / 2, "area_px": sides.prod(1), "touches_border": False,
        "scale": np.minimum(1, size / sides.max(1)).astype(np.float32),
        "crop_shard": position // cropstore.SHARD_ROWS, "crop_row": position % cropstore.SHARD_ROWS,
        "annotation": crops["label"],
    })  # fmt: skip
    kept = [name for name in crops.columns if name not in cells and name not in ("image", "label")]
    return pd.concat([cells, crops[kept]], axis=1)


def group_of(name: str) -> str:
    return name.split("/", 1)[0] if "/" in name else "crops"


def place(pixels: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    """(h, w, c) uint8 -> (size, size, channels+1) uint8, the last channel its mask: what the picture covers.

    It stands in the middle, surrounded by its median colour, and is shrunk only where it is larger than `size` px; grey
    is repeated over the channels.
    """
    import pandas as pd

    if pixels.shape[2] < channels:
        pixels = np.repeat(pixels[..., :1], channels, axis=2)
    height, width = pixels.shape[:2]
    whole = {
        "y0": [0],
        "x0": [0],
        "y1": [height],
        "x1": [width],
        "mask_label": [1],
        "scale": [min(1.0, size / max(height, width))],
    }
    return crop.cut(pixels, np.ones((height, width), np.int32), pd.DataFrame(whole), size)[0]
