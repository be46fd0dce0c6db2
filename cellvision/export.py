"""Command: a run's cells for other programs: QuPath GeoJSON, CellProfiler tables, label maps for Fiji and Cellpose.

Reads images.parquet, cells.parquet and masks/ of a segment run (or of the one inside a predict or study run), and, for
intensities, the raw images. Cells that --drop left out of the table are left out here.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.cells import cellprofiler
from cellvision.cells.modes import MODES
from cellvision.cells.pixels import ReadConfig, grey_repeated, read_as
from cellvision.core import files, rundir
from cellvision.core.config import Only, StageConfig, build, option
from cellvision.core.errors import ConfigError, UnsafeInput
from cellvision.core.progress import say, track
from cellvision.core.yamlfiles import read_yaml
from cellvision.executors import local
from cellvision.io import geojson, labelmaps
from cellvision.io.images.reader import ImageError
from cellvision.runs.calls import command

if TYPE_CHECKING:
    import pandas as pd

POSITIONAL = "run"
RECORD = "export.json"
IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
LONGEST = 200  # bytes of a file's name, from which on the image_id is used instead
OUTSIDE = (
    "item_id",
    "source_id",
    "source_hash",
    "source_print",
    "path",
    "crop_shard",
    "crop_row",
    "mask_label",
)  # of GeoJSON: no measurements
MEASURED = (
    "y",
    "x",
    "y0",
    "x0",
    "y1",
    "x1",
    "area_px",
    "solidity",
    "crop_shard",
    "crop_row",
    "classification",
)  # in Cells.csv
PROBABILITY = "p_"  # columns of predictions.parquet


class Config(StageConfig):
    """Options of `export`."""

    run: Path = option(..., "a segment, predict or study run")
    to: Literal["geojson", "cellprofiler", "labels"] = option(..., "for QuPath, a CSV of measurements, or TIFF")
    raw: Path | None = option(None, "where the images lie now, for intensities; else where they lay")
    predictions: Path | None = option(None, "a finetune or predict run, or a table with item_id and predicted")
    classify_by: str | None = option(None, "column shown as the class in QuPath; else annotation, then prediction")
    object_type: Literal["detection", "cell", "annotation"] = option(
        "detection", "what QuPath takes a cell for; only annotations can be edited there"
    )
    naming: Literal["raw", "cellpose"] = option("raw", "label maps as <name>.tif or <name>_cp_masks.tif")
    channel_names: tuple[str, ...] = option((), "names of the channels, for the columns of intensities")
    uses: ClassVar[tuple[str, ...]] = ("workers",)
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("naming",), lambda cfg: cfg.to == "labels", "with --to labels"),
        Only(("object_type", "classify_by"), lambda cfg: cfg.to == "geojson", "with --to geojson"),
        Only(("raw", "channel_names"), lambda cfg: cfg.to == "cellprofiler", "with --to cellprofiler"),
        Only(("predictions",), lambda cfg: cfg.to != "labels", "with --to geojson or cellprofiler"),
    )


@dataclass(frozen=True)
class Job:
    """One image on its way out; small enough to be sent to a worker."""

    cfg: Config
    image: dict[str, Any]  # its row of images.parquet
    number: int  # from 1, in the order of the paths
    target: Path  # what is written, without suffix
    mask: Path
    source: Path | None  # the image file, where intensities are wanted
    read: ReadConfig  # how it was read
    channels: tuple[str, ...]
    cells: pd.DataFrame


@command
def run(cfg: Config, out: Path) -> Path:
    """Write one kind of export into `out`, image by image."""
    where = segment_run(cfg.run)
    refuse_other(out, cfg, where)
    with rundir.locked(out):
        return write(cfg, where, out)


def write(cfg: Config, where: Path, out: Path) -> Path:
    """The export, into a folder that nobody else writes to; until it is whole its record says so."""
    refuse_other(out, cfg, where)
    rundir.remove_temporaries(out)
    record = {"to": cfg.to, "content": rundir.content_of(where)}
    jobs, total = plan(cfg, where, out)
    files.write_json(out / RECORD, record | {"status": "running"})
    workers = local.cores() if cfg.workers is None else cfg.workers
    results = track(local.ordered_map(export_one, jobs, min(workers, total)), "export", total, "images")
    if cfg.to == "cellprofiler":
        cells, notes = write_tables(results, out)
    else:
        written = list(results)
        cells, notes = sum(count for count, _ in written), [note for _, note in written if note]
    files.write_json(out / RECORD, record | {"images": total, "cells": cells})
    say(f"export: {cells} items of {total} images as {cfg.to} -> {out}")
    for note in notes[:3]:
        say(f"export: {note}")
    if len(notes) > 3:
        say(f"export: and {len(notes) - 3} more images of that kind")
    return out


# -- what goes out ------------------------------------------------------------------------------------------------


def segment_run(path: Path) -> Path:
    """The segment run that `path` is or holds, which must have label maps."""
    if not rundir.is_run(path):
        raise ConfigError(f"{path} is no run directory (it has no run.json)")
    rundir.refuse_links(path)
    inside = [path, *(folder.parent for folder in sorted(path.glob("runs/*/run.json")))]
    segment_runs = [folder for folder in inside if rundir.is_run(folder, "segment")]
    if not segment_runs:
        raise ConfigError(f"{path} holds no segmented cells; give the segment run whose --out you chose")
    rundir.content_of(segment_runs[0])
    if not (segment_runs[0] / "masks").is_dir():
        raise ConfigError(f"{segment_runs[0]} was made from ready crops and has no label maps to export")
    return segment_runs[0]


def refuse_other(out: Path, cfg: Config, where: Path) -> None:
    """ConfigError unless `out` is new or empty, or holds the same export, whole or not."""
    record = files.read_json(out / RECORD) if (out / RECORD).is_file() else {}
    same = isinstance(record, dict) and (record.get("to"), record.get("content")) == (cfg.to, rundir.content_of(where))
    files.refuse_special(out)
    if (
        out.exists()
        and (not out.is_dir() or not all(rundir.is_own(entry.name) for entry in out.iterdir()))
        and not same
    ):
        raise ConfigError(f"{out} is not empty and holds no {cfg.to} export of this run; give a new or empty --out")


def plan(cfg: Config, where: Path, out: Path) -> tuple[Iterator[Job], int]:
    """A job for every image that was read, and their number."""

    images = files.read_parquet(where / "images.parquet").sort_values("path")
    images = images[images["status"] == "ok"]
    if strange := next((key for key in images["image_id"] if not IMAGE_ID.fullmatch(str(key))), None):
        raise UnsafeInput(f"{where / 'images.parquet'} has an image_id that is no name of a file: {strange!r}")
    cells = with_classes(cfg, where, files.read_parquet(where / "cells.parquet"))
    options = read_yaml(where / "config.yaml")
    read = build(ReadConfig, options.get("read") or {})
    raw = cfg.raw or (Path(options["raw"]) if options.get("raw") else None)
    if cfg.raw is not None and not cfg.raw.is_dir():
        raise ConfigError(f"no folder of images at {cfg.raw}")
    channels = named_channels(cfg, files.read_json(where / "geometry.json"))
    by_image = cells.groupby("source_id")
    names = dict(zip(images["image_id"], targets(images), strict=True))
    root = out.resolve()
    if any(root not in (root / name).resolve().parents for name in names.values()):
        raise UnsafeInput(f"{where / 'images.parquet'} names files outside of {out}")

    def jobs() -> Iterator[Job]:
        for number, image in enumerate(images.to_dict("records"), 1):
            key = image["image_id"]
            image_cells = by_image.get_group(key) if key in by_image.groups else cells.iloc[:0]
            source = raw / image["path"] if raw and cfg.to == "cellprofiler" else None
            mask = where / "masks" / f"{key}.tif"
            yield Job(cfg, image, number, out / names[key], mask, source, read, channels, image_cells)

    return jobs(), len(images)


def targets(images: pd.DataFrame) -> list[str]:
    """Where each image's file goes: its path without suffix; with it where two would meet; by id where long."""
    short = [path.rpartition(".")[0] if "." in path.rpartition("/")[2][1:] else path for path in images["path"]]
    count = Counter(name.casefold() for name in short)
    chosen = [name if count[name.casefold()] == 1 else path for name, path in zip(short, images["path"], strict=True)]
    return [
        name
        if max(len(component.encode()) for component in name.split("/")) <= LONGEST
        else f"{group or '.'}/{image_id}"
        for name, group, image_id in zip(chosen, images["group"], images["image_id"], strict=True)
    ]


def with_classes(cfg: Config, where: Path, cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with `prediction` and the probabilities where there are predictions, and `classification` for QuPath."""

    path = cfg.predictions or (cfg.run if cfg.run != where and (cfg.run / "predictions.parquet").is_file() else None)
    if path is not None:
        path = path / "predictions.parquet" if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f"no predictions at {path}")
        predictions = files.read_parquet(path)
        if not {"item_id", "predicted"} <= set(predictions) or predictions["item_id"].duplicated().any():
            raise ConfigError(f"{path} needs the columns item_id, each once, and predicted")
        kept = ["item_id", "predicted", *(name for name in predictions if name.startswith(PROBABILITY))]
        cells = cells.merge(predictions[kept].rename(columns={"predicted": "prediction"}), on="item_id", how="left")
        n_predicted = int(cells["prediction"].notna().sum())
        if not n_predicted:
            raise ConfigError(f"{path} knows none of these cells; give predictions of this run")
        if n_predicted < len(cells):
            say(f"export: {len(cells) - n_predicted} of {len(cells)} cells have no prediction")
    if cfg.classify_by is not None and cfg.classify_by not in cells:
        raise ConfigError(f"no column {cfg.classify_by!r}; columns: {', '.join(cells)}")
    best = cells[cfg.classify_by] if cfg.classify_by else cells["annotation"].astype(object)
    if cfg.classify_by is None and "prediction" in cells:
        best = best.where(best.notna(), cells["prediction"])
    return cells.assign(classification=best)


def named_channels(cfg: Config, geometry: dict[str, Any]) -> tuple[str, ...]:
    """Names as given, as the files have them, or numbers."""
    count = geometry["channels"]
    if cfg.channel_names and len(cfg.channel_names) != count:
        raise ConfigError(f"--channel-names wants {count} names, one for each channel; got {len(cfg.channel_names)}")
    return cfg.channel_names or tuple(geometry.get("channel_names") or ()) or cellprofiler.channel_names(count)


# -- one image ----------------------------------------------------------------------------------------------------


def export_one(job: Job) -> tuple[Any, str]:
    """-> how many cells were written, or their rows, and a note."""
    labels = kept_labels(job)
    target = job.target
    if job.cfg.to == "cellprofiler":
        return measured(job, labels)
    if job.cfg.to == "labels":
        ending = "_cp_masks" if job.cfg.naming == "cellpose" else ""
        labelmaps.write(target.with_name(f"{target.name}{ending}.tif"), labels)
        return len(job.cells), ""
    numbers = [name for name in job.cells if name not in OUTSIDE and job.cells[name].dtype.kind in "biuf"]
    texts = [name for name in job.cells if name not in (*numbers, *OUTSIDE, "classification")]
    features = geojson.features(labels, job.cells, job.cfg.object_type, numbers, texts)
    about = {name: job.image[name] for name in ("path", "group", "pixel_size_um", "sha256")}
    about |= dict(zip(("height", "width"), labels.shape, strict=True))
    return geojson.write_geojson(target.with_name(f"{target.name}.geojson"), features, about), ""


def kept_labels(job: Job) -> NDArray[np.int32]:
    """The label map with the cells of the table alone."""
    labels = labelmaps.read(job.mask)
    kept = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    cell_labels = job.cells["mask_label"].to_numpy(np.int64)
    kept[cell_labels] = cell_labels
    return kept[labels]


# -- CellProfiler -------------------------------------------------------------------------------------------------


def measured(job: Job, labels: NDArray[np.int32]) -> tuple[tuple[pd.DataFrame, pd.DataFrame], str]:
    """The image's row of Image.csv, its cells' rows of Cells.csv, and a note where intensities are missing.

    labels: (H, W), 0 is background.
    """
    import pandas as pd

    shapes = cellprofiler.shape_and_place(labels)
    cells = job.cells.set_index("mask_label").loc[shapes.index]
    pixels, note = pixels_of(job, labels.shape)
    if pixels is None:
        names = [f"Intensity_{what}_{name}" for name in job.channels for what in cellprofiler.INTENSITY]
        bright = pd.DataFrame(np.nan, shapes.index, names)
    else:
        bright = cellprofiler.intensities(labels, pixels, job.channels)
    numbers = pd.DataFrame({"ImageNumber": job.number, "ObjectNumber": shapes.index}, shapes.index)
    described = cells[[name for name in cells if name not in MEASURED]].add_prefix("Metadata_")
    facts = {name: job.image[name] for name in ("image_id", "path", "group", "pixel_size_um")}
    folder, _, file = job.image["path"].rpartition("/")
    counts = {f"Count_{mode.capitalize()}s": int((cells["mode"] == mode).sum()) for mode in MODES}
    image = {
        "ImageNumber": job.number, **counts, "FileName_Image": file, "PathName_Image": folder,
        "Height_Image": labels.shape[0], "Width_Image": labels.shape[1],
        **{f"Metadata_{name}": value for name, value in facts.items()},
    }  # fmt: skip
    table = pd.concat([numbers, described, shapes, bright.sort_index(axis=1)], axis=1)
    return (pd.DataFrame([image]), table), note


def pixels_of(job: Job, shape: tuple[int, ...]) -> tuple[NDArray[Any] | None, str]:
    """(H, W, C) in the depth of the file, as the run read it; None and why where that cannot be had."""
    path = job.image["path"]
    if job.source is None or not job.source.is_file():
        return None, f"no intensities for {path!r}: the image is not at {job.source}; say where with --raw"
    if job.image.get("channel_files") is not None:
        return None, f"no intensities for {path!r}: its channels are files of their own"
    try:
        image = read_as(job.source, job.read)
    except ImageError as error:
        return None, f"no intensities for {path!r}: {error}"
    if image.sha256 != job.image["sha256"] or image.pixels.shape[:2] != shape:
        return None, f"no intensities for {path!r}: the file is not the one that was segmented"
    return grey_repeated(image.pixels, len(job.channels)), ""


def write_tables(results: Iterator[tuple[Any, str]], out: Path) -> tuple[int, list[str]]:
    """Image.csv and Cells.csv, grown image by image; -> how many cells, and the notes."""
    notes, cells = [], 0
    with (
        files.atomic(out / "Image.csv") as image_file, files.atomic(out / "Cells.csv") as cells_file,
        image_file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as image_csv,
        cells_file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as cells_csv,
    ):  # fmt: skip
        for number, ((image, table), note) in enumerate(results):
            append(image_csv, image, header=number == 0)
            append(cells_csv, table, header=number == 0)
            cells += len(table)
            notes += [note] if note else []
    return cells, notes


def append(handle: Any, table: pd.DataFrame, *, header: bool) -> None:
    """Rows of a CSV that no spreadsheet runs as formulas."""
    safe = table.set_axis([files.inert(name) for name in table], axis=1)
    for name in safe.columns[[kind.kind not in "biuf" for kind in safe.dtypes]]:
        safe[name] = [files.inert(value) for value in safe[name]]
    safe.to_csv(handle, header=header, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("export"))
