"""Stage: raw images -> cells. Reads raw/<group>; writes images.parquet, cells.parquet, masks/, crops/, preview.png.

Two passes: masks first, then crops, because the crop's size and scale are one choice for the whole run. Each image
that is done is kept, so an interrupted run resumes. Ready crops (`--crops DIR --metadata meta.csv`) skip both.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import items
from cellvision.cells import account, annotate, crop, cropstore, families, hygiene, readycrops
from cellvision.cells.brightness import Ranges
from cellvision.cells.modes import Mode
from cellvision.cells.pixels import (
    READ_FLAGS,
    Loaded,
    ReadConfig,
    choose_ranges,
    crop_pixels,
    grey_repeated,
    load_pixels,
    names_of_channels,
    ranges_of,
)
from cellvision.cells.quality import Flag
from cellvision.core import files
from cellvision.core.config import Only, StageConfig, fingerprint, option
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say, track
from cellvision.core.rundir import RunDir, content_of
from cellvision.evidence import independence, labelscores, maskhistory
from cellvision.executors import local
from cellvision.io import channelfiles, labelmaps, outputs, rawfolder
from cellvision.io.images.reader import ImageError, Limits, Reason
from cellvision.io.rawfolder import Entry
from cellvision.plots.cells import preview
from cellvision.runs.calls import stage
from cellvision.segmenters import SEGMENTERS, WHY, Segmentation, Segmenter, SegmenterConfig, given
from cellvision.segmenters.slow import Slow, announce

if TYPE_CHECKING:
    import pandas as pd

REVISION = 11
PARTS = "parts"
SAMPLED = 32  # images whose tiles are counted for the estimate of the time


class Config(StageConfig):
    """Options of `segment`."""

    raw: Path | None = option(None, "folder with a sub-folder of images for each group", runtime=True)
    segmenter: SegmenterConfig = option(
        "auto", "what finds the cells; auto: cellpose on a GPU with its weights, else nano"
    )
    join_channels: bool = option(False, "files that differ only in their channel (_w1 _w2 …) are one image")
    masks: Path | None = option(
        None,
        "folder of label maps that mirrors --raw (TIFF, PNG, GeoJSON, ImageJ ROI zip), in place of a segmenter",
        runtime=True,
    )
    annotations: Path | None = option(
        None, "CSV of true labels: image,x,y,label or image,x0,y0,x1,y1,label", runtime=True
    )
    drop: tuple[Flag, ...] = option((), "leave out cells with these flags")
    mode: Literal["auto"] | Mode = option(
        "auto", "what an item is; object: one a picture, such as a neuron; tile: of tissue, which auto never says"
    )
    modes: dict[str, Mode] = option({}, "mode of single groups, such as neuron: object", flag=False)
    context: float = option(0.15, "margin around a cell, fraction of its longer side", ge=0, le=2)
    max_size: int = option(160, "px, largest side of a stored crop", ge=32, le=512)
    size: int | None = option(
        None, "px, side of the crops, with --scale; chosen from the cells when absent", ge=16, le=1024
    )
    scale: float | None = option(None, "stored px per image px, with --size", gt=0, le=1)
    crops: Path | None = option(None, "folder of ready single-cell crops, instead of --raw", runtime=True)
    metadata: Path | None = option(
        None, "CSV with a row an image: image, label and any others for --crops, columns for --truth-by", runtime=True
    )
    truth: Path | None = option(None, "folder of true label maps that mirrors --raw; scores the masks", runtime=True)
    truth_by: tuple[str, ...] = option((), "columns of --metadata to report those scores by", runtime=True)
    truth_unit: str | None = option(None, "column of --metadata that names the unit of those scores", runtime=True)
    unit: str | None = option(None, "metadata column that names the independent unit of a ready crop")
    read: ReadConfig = option(ReadConfig(), "how files become pixels", flag=False)
    short: ClassVar[dict[str, str]] = {
        **{name: f"segmenter.{name}" for name in ("diameter", "weights")},
        **READ_FLAGS,
    }
    uses: ClassVar[tuple[str, ...]] = ("seed", "workers", "device", "strict")
    rules: ClassVar[tuple[Only, ...]] = (
        Only(("segmenter",), lambda cfg: cfg.masks is None, "without --masks, which takes its place"),
        Only(("segmenter", "join_channels", "masks", "annotations", "drop", "mode", "modes", "context", "size", "scale",
              "truth"), lambda cfg: cfg.crops is None, "with --raw; --crops are cut already"),
        Only(("device",), lambda cfg: cfg.device == "cpu" or on_device(cfg), "with a segmenter that is a network"),
        Only(("unit",), lambda cfg: cfg.crops is not None, "with --crops"),
        Only(("truth_by", "truth_unit"), lambda cfg: cfg.truth is not None, "with --truth"),
        Only(("metadata",), lambda cfg: cfg.crops is not None or cfg.truth_by or cfg.truth_unit,
             "with --crops, --truth-by or --truth-unit"),
        Only(("size",), lambda cfg: cfg.scale is not None, "with --scale"),
        Only(("scale",), lambda cfg: cfg.size is not None, "with --size"),
        Only(("max_size",), lambda cfg: cfg.size is None, "without --size, which says it already"),
    )  # fmt: skip


def on_device(cfg: Config) -> bool:
    """Whether a network cuts these cells, so that it matters where it runs."""
    return cfg.crops is None and cfg.masks is None and getattr(cfg.segmenter, "on_device", True)


@stage
def run(cfg: Config, out: Path) -> None:
    """Segment and crop every image, or take ready crops; every input file ends in exactly one row."""
    if (cfg.raw is None) == (cfg.crops is None):
        raise ConfigError("give --raw (images to segment) or --crops with --metadata (ready crops), one of the two")
    if cfg.crops is not None:
        return take_ready_crops(cfg, cfg.crops, out)
    entries = scan_images(cfg)
    for group in sorted(set(cfg.modes) - {entry.group for entry in entries}):
        raise ConfigError(f"there is no group {group!r} below {cfg.raw}, so that its mode has no effect")
    _BUILT.clear()
    inputs = {"raw": rawfolder.fingerprint_of(entries)}
    if cfg.masks is None:
        inputs["segmenter"] = _segmenter(cfg).identity()  # every user error happens here
        say(f"segment: with {cfg.segmenter.name} ({WHY.get(cfg.segmenter.name, 'a plugin')})")
    else:
        entries = given.with_maps(entries, labelscores.maps_of(entries, cfg.masks), cfg.masks)
        inputs |= {"segmenter": given.NAME, "masks": given.identity(entries)}
        say(f"segment: with the masks in {cfg.masks}, for {sum(bool(entry.maps) for entry in entries)} images")
    if cfg.annotations:
        inputs["annotations"] = content_of(cfg.annotations)
    truth = labelscores.find(cfg.truth, cfg.metadata, cfg.truth_by, cfg.truth_unit) if cfg.truth else None
    history = maskhistory.of_segmenter(None if cfg.masks else cfg.segmenter)
    with RunDir.claim(out, "segment", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            images, cells, matched = both_passes(cfg, entries, out)
            preview(entries, images, out / "masks", out / "preview.png", lambda entry: shown(entry, cfg, out))
            write_tables(images, cells, matched, out)
            shutil.rmtree(out / PARTS, ignore_errors=True)
            metrics = account.summarise(images, cells, matched) | {"notes": list(independence.notes_on(images))}
            metrics["stamps"] += maskhistory.stamps(history, images)
            claimed.finish(metrics)
        if truth is not None:
            labelscores.score_run(out, truth, cfg.workers, history)
        account.tell(out, cfg.strict)


def scan_images(cfg: Config) -> list[Entry]:
    """Every file below `--raw`, hashed. NoUsableInput where there are no images."""
    assert cfg.raw is not None
    entries = rawfolder.scan_folder(cfg.raw, follow_symlinks=cfg.read.follow_symlinks)
    return channelfiles.joined(entries) if cfg.join_channels else entries


def take_ready_crops(cfg: Config, folder: Path, out: Path) -> None:
    """Crops that somebody else has cut: read, put into one size, and described by their metadata."""
    if cfg.metadata is None:
        raise ConfigError("--crops needs --metadata, a CSV with the columns image and label")
    if not folder.is_dir():
        raise NoUsableInput(f"no folder at {folder}")
    table = readycrops.below(folder, readycrops.read_metadata(cfg.metadata, cfg.unit), cfg.metadata)
    present = [name for name in table["image"] if (folder / name).is_file()]
    content = fingerprint([(name, files.hash_or_reason(folder / name)) for name in present])
    inputs = {"crops": content, "metadata": content_of(cfg.metadata)}
    with RunDir.claim(out, "segment", cfg, inputs, REVISION) as claimed:
        if not claimed.done:
            workers = local.cores() if cfg.workers is None else cfg.workers
            images, cells = readycrops.gather(folder, table, cfg.unit, cfg.max_size, cfg.read, workers, out)
            images, cells = images.assign(**hygiene.EMPTY | {"n_cells": images["n_cells"]}), cells.assign(mode="cell")
            write_tables(images, cells, None, out)
            claimed.finish(account.summarise(images, cells, None))
    account.tell(out, cfg.strict)
    if cfg.unit is None:
        say(f"segment: {independence.unnamed(files.read_parquet(out / 'cells.parquet'))}")


def both_passes(cfg: Config, entries: list[Entry], out: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """Images, cells and annotations. An image that is gone before its cells are cut is one that could not be read."""
    while True:
        images, cells = families.in_units(*find_cells(cfg, entries, out))
        matched = match_annotations(cfg, images, cells, out)
        cells = finish_cells(cells, matched)
        images, intensity = choose_ranges(images, account.items_of(images) > 0, cfg.read)
        try:
            return images, write_crops(cfg, entries, images, cells, intensity, out), matched
        except LostImage as lost:
            give_up(lost, entries, out)


class LostImage(Exception):  # noqa: N818 - says what happened
    """image_id, reason and text of an image that could be read once and cannot be read again."""


def give_up(lost: LostImage, entries: list[Entry], out: Path) -> None:
    """The part of this image, and of all others that are no longer what they were, says that it was skipped."""
    image_id, reason, text = lost.args
    for entry in entries:
        gone = entry.status == "ok" and files.hash_or_reason(entry.path) != entry.sha256
        if entry.image_id == image_id or gone:
            why = (reason, text) if entry.image_id == image_id else (Reason.E_IO, "it was there when the run began")
            say(f"segment: {entry.relative!r} can no longer be read and is left out: {why[1]}")
            files.write_json(_part(out, entry), {"image": account.image_row(entry, "skipped", *why), "cells": []})


def shown(entry: Entry, cfg: Config, out: Path) -> NDArray[np.uint8]:
    """(H, W, C) pixels for the preview, black where the image is gone by now."""
    try:
        return load_pixels(entry, cfg.read).pixels
    except ImageError:
        return np.zeros((*labelmaps.read(out / "masks" / f"{entry.image_id}.tif").shape, 1), np.uint8)


# -- first pass: masks --------------------------------------------------------------------------------------------


def find_cells(cfg: Config, entries: list[Entry], out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Masks of every image, those already done kept; -> one row a file, one row a cell."""
    import pandas as pd

    todo = [(cfg, entry, out) for entry in entries if entry.status == "ok" and not _is_done(entry, out)]
    kept = sum(entry.status == "ok" for entry in entries) - len(todo)
    if kept:
        say(f"segment: {kept} images were already done")
    results = local.ordered_map(segment_one, todo, processes(cfg, todo))
    for _ in track(results, "segment", kept + len(todo), "images", kept):
        pass
    records = [_skipped(entry) if entry.status != "ok" else files.read_json(_part(out, entry)) for entry in entries]
    images = pd.DataFrame([record["image"] for record in records])
    tables = [
        pd.DataFrame(record["cells"]).assign(image_id=record["image"]["image_id"])
        for record in records
        if record["cells"]
    ]
    if not tables:
        _refuse_nothing(images)
    cells = pd.concat(tables, ignore_index=True)
    columns = images[["image_id", "pixel_hash", "source_print", "group", "path"]]
    return images, cells.merge(columns, on="image_id", how="left", validate="many_to_one")


def processes(cfg: Config, todo: list[tuple[Config, Entry, Path]]) -> int:
    """`--workers`, else one a core; of a slow segmenter no more than fit into memory, and it says what is to come."""
    segmenter = _segmenter(cfg) if cfg.masks is None else None
    workers = min(local.cores() if cfg.workers is None else cfg.workers, len(todo))
    if isinstance(segmenter, Slow) and todo:
        workers = min(workers, segmenter.processes()) if cfg.workers is None else workers
        announce(segmenter, _sample(todo), len(todo), workers)
        if workers > 1:
            _BUILT.clear()  # each process has its own
    return workers


def _sample(todo: list[tuple[Config, Entry, Path]]) -> Iterator[NDArray[np.uint8]]:
    """What the segmenter will see of up to SAMPLED images, evenly over the list, as far as they can be read."""
    for cfg, entry, _ in todo[:: math.ceil(len(todo) / SAMPLED)]:
        with contextlib.suppress(ImageError):
            yield load_pixels(entry, cfg.read).seen


def _refuse_nothing(images: pd.DataFrame) -> None:
    reasons = images.loc[images["status"] != "ignored", "reason"].value_counts()
    listing = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    skipped = images[images["status"] == "skipped"]
    if not (images["status"] == "ok").any():
        first = (skipped if len(skipped) else images).iloc[0]
        raise NoUsableInput(f"no image can be read ({listing or 'all ignored'}); {first['path']!r}: {first['note']}")
    raise NoUsableInput(
        f"no cells in any image ({listing}); check --diameter, --channels and --segmenter, and look at one image"
    )


def _part(out: Path, entry: Entry) -> Path:
    return out / PARTS / f"{entry.image_id}.json"


def _is_done(entry: Entry, out: Path) -> bool:
    return _part(out, entry).exists()


def _skipped(entry: Entry) -> dict[str, Any]:
    return {"image": account.image_row(entry, entry.status, entry.reason, entry.note), "cells": []}


def segment_one(task: tuple[Config, Entry, Path]) -> None:
    """One image: decode, segment, measure; writes its mask and then its part, which is the sign that it is done."""
    cfg, entry, out = task
    mode = cfg.modes.get(entry.group, cfg.mode)
    try:
        loaded = load_pixels(entry, cfg.read)
        if entry.origin and outputs.is_label_map(loaded.image.pixels):
            return files.write_json(_part(out, entry), account.no_image(entry, loaded.image))
        segmentation = masks_of(cfg, entry, loaded, mode)
    except ImageError as error:
        return files.write_json(
            _part(out, entry), {"image": account.image_row(entry, "skipped", error.reason, str(error)), "cells": []}
        )
    image = loaded.image
    sifted = hygiene.sift(segmentation.masks, segmentation.scores, loaded.pixels, mode, cfg.drop)
    labelmaps.write(out / "masks" / f"{entry.image_id}.tif", sifted.labels)
    read_notes = [note for note in (entry.note, *image.notes) if note]
    row = account.image_row(entry, "ok", Reason.OK, "; ".join([*read_notes, *segmentation.notes, *sifted.notes]), image)
    row |= sifted.row
    if read_notes:
        row["reason"] = Reason.OK_NOTE
    if sifted.items.empty:
        row["reason"] = Reason.E_NO_CELLS
    rows = {} if sifted.items.empty else sifted.items.to_dict("list")
    return files.write_json(_part(out, entry), {"image": row, "cells": rows})


def masks_of(cfg: Config, entry: Entry, loaded: Loaded, mode: str) -> Segmentation:
    """The cells of one image, found by the segmenter or given. ImageError where nothing usable was given."""
    if cfg.masks is None:
        return _segmenter(cfg).segment(loaded.seen)
    limits = Limits(min_side=1, max_megapixels=cfg.read.max_megapixels)
    return given.cells_of(entry, loaded.pixels.shape[:2], cfg.masks, limits, whole=mode == "object")


_BUILT: dict[str, Segmenter] = {}  # one segmenter per worker process: weights are loaded once


def _segmenter(cfg: Config) -> Segmenter:
    key = cfg.segmenter.model_dump_json() + cfg.device
    if key not in _BUILT:
        _BUILT.clear()
        _BUILT[key] = SEGMENTERS.build(cfg.segmenter, device=cfg.device)
    return _BUILT[key]


# -- between the passes -------------------------------------------------------------------------------------------


def match_annotations(cfg: Config, images: pd.DataFrame, cells: pd.DataFrame, out: Path) -> pd.DataFrame | None:
    """Every annotation with its status (matched, outside, shared, no_image) and item_id."""
    import pandas as pd

    if cfg.annotations is None:
        return None
    given = annotate.read(cfg.annotations, images[images["status"] == "ok"])
    nowhere = given["image_id"].isna()
    tables = [given[nowhere].assign(mask_label=0, status="no_image")]
    by_image = dict(tuple(cells.groupby("image_id")))
    for image_id, rows in given[~nowhere].groupby("image_id"):
        here = by_image.get(image_id, cells.iloc[:0])
        labels = labelmaps.read(out / "masks" / f"{image_id}.tif")
        labels[~np.isin(labels, here["mask_label"].to_numpy())] = 0  # cells left out are no cells
        tables.append(annotate.match(rows, labels, here))
    table = pd.concat(tables).sort_index()
    annotate.refuse_strangers(table, len(cells), cfg.annotations)
    table["item_id"] = np.where(table["status"] == "matched", _item_ids(table), None)
    return table


def _item_ids(table: pd.DataFrame) -> pd.Series:
    return table["image_id"].astype(str) + "-" + table["mask_label"].astype(int).map("{:05d}".format)


def finish_cells(cells: pd.DataFrame, matched: pd.DataFrame | None) -> pd.DataFrame:
    """The columns every items table has, in order; the annotation where a cell has one."""
    cells = cells.assign(item_id=_item_ids(cells)).sort_values("item_id", ignore_index=True)
    cells["source_id"] = cells.pop("image_id")
    cells = cells.rename(columns={"pixel_hash": "source_hash"})
    truth = {} if matched is None else matched.dropna(subset=["item_id"]).set_index("item_id")["label"].to_dict()
    cells["annotation"] = cells["item_id"].map(truth).astype(object)
    first = [*items.COLUMNS, "path", "mask_label", "y", "x"]
    return cells[[*first, *(name for name in cells.columns if name not in first)]]


# -- second pass: crops -------------------------------------------------------------------------------------------


def write_crops(
    cfg: Config, entries: list[Entry], images: pd.DataFrame, cells: pd.DataFrame, intensity: dict[str, Any], out: Path
) -> pd.DataFrame:
    """Choose one size and scale, cut every cell in table order, and note where each crop lies."""
    if cfg.size is not None and cfg.scale is not None:
        geometry = crop.Geometry(cfg.size, cfg.scale, cfg.context)
    else:
        geometry = crop.choose_geometry(cells, cfg.context, cfg.max_size)
    cells = cells.assign(scale=crop.cell_scales(cells, geometry))
    rows = np.arange(len(cells))
    cells = cells.assign(crop_shard=rows // cropstore.SHARD_ROWS, crop_row=rows % cropstore.SHARD_ROWS)
    used = images[account.items_of(images) > 0]
    channels, names = same_channels(used["channels"]), names_of_channels(used)
    by_id = {entry.image_id: entry for entry in entries}
    ranges = {row["image_id"]: ranges_of(row) for row in images[images["crop_low"].notna()].to_dict("records")}
    tasks = [
        (cfg, by_id[str(name)], image_cells, ranges[name], (geometry.size, channels), out)
        for name, image_cells in cells.groupby("source_id", sort=True)
    ]
    workers = local.cores() if cfg.workers is None else cfg.workers
    parts = track(local.ordered_map(crop_one, tasks, min(workers, len(tasks))), "segment: crops", len(tasks), "images")
    cropstore.pack_crops(parts, out / "crops", len(cells), (geometry.size, geometry.size, channels + 1))
    facts = {**geometry.__dict__, "channels": channels, "channel_names": names, "intensity": intensity}
    files.write_json(out / "geometry.json", facts)
    return cells


def same_channels(counts: pd.Series) -> int:
    """How many channels the crops have, from those of the images, (n,): grey may stand among others, no more."""
    most = int(counts.max())
    if set(counts.astype(int)) - {1, most}:
        listed = " and ".join(map(str, sorted(set(counts.astype(int)))))
        raise ConfigError(f"the images have {listed} channels; say which to keep with --channels")
    return most


def crop_one(task: tuple[Config, Entry, Any, Ranges, tuple[int, int], Path]) -> NDArray[np.uint8]:
    """The crops of one image, (n, S, S, C+1); a grey image among colour ones is repeated over the channels."""
    cfg, entry, cells, ranges, (size, channels), out = task
    try:
        pixels = grey_repeated(crop_pixels(entry, cfg.read, ranges), channels)
    except ImageError as error:
        raise LostImage(entry.image_id, error.reason, str(error)) from None
    return crop.cut(pixels, labelmaps.read(out / "masks" / f"{entry.image_id}.tif"), cells, size)


# -- tables ------------------------------------------------------------------------------------------------------


def write_tables(images: pd.DataFrame, cells: pd.DataFrame, matched: pd.DataFrame | None, out: Path) -> None:
    files.write_parquet(out / "images.parquet", images.sort_values("path", ignore_index=True))
    files.write_parquet(out / "cells.parquet", cells)
    if matched is not None:
        files.write_parquet(out / "annotations.parquet", matched)


if __name__ == "__main__":
    from cellvision.commandline.cli import main
    from cellvision.core.signals import leave

    leave(main("segment"))
