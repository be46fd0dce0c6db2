"""What became of every file and every cell of a segment run: rows, counts that add up, and the words for the person."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.cells import brightness, hygiene
from cellvision.cells.modes import MODES, counted
from cellvision.cells.overlays import DRAWN
from cellvision.cells.quality import FLAGS
from cellvision.core import files
from cellvision.core.errors import RejectedInput
from cellvision.core.progress import say
from cellvision.io.images.intensity import intensity_range, pixel_hash, to_uint8
from cellvision.io.images.prints import print_of
from cellvision.io.images.reader import Image, Reason
from cellvision.io.rawfolder import Entry

if TYPE_CHECKING:
    import pandas as pd

NUMBER = re.compile(r"\d+(?:\.\d+)?")
CHOSEN = re.compile(
    r"series|planes|pages|frame|alpha|channel|display lookup|file of an image|OME"
)  # in notes of readers
LISTED = 10  # files that are named; the others are in images.parquet


def image_row(entry: Entry, status: str, reason: str, note: str, image: Image | None = None) -> dict[str, Any]:
    """The row of images.parquet of a file, before anything was found in it."""
    row: dict[str, Any] = {
        "image_id": entry.image_id, "path": entry.relative, "group": entry.group,
        "status": status, "reason": str(reason), "note": note, "height": None, "width": None, "sha256": None,
        "pixel_hash": None, "source_print": "", "pixel_size_um": None,
        "channel_files": [channel.path.name for channel in entry.parts] or None,
        "channel_names": None, **brightness.UNMEASURED, **hygiene.EMPTY,
    }  # fmt: skip
    if image is not None:
        row |= {
            "height": image.pixels.shape[0], "width": image.pixels.shape[1], "sha256": image.sha256,
            "pixel_hash": pixel_hash(image.pixels), "pixel_size_um": image.pixel_size_um,
            "source_print": print_of(to_uint8(image.pixels, intensity_range(image.pixels))),
            "channel_names": list(image.channel_names) or None, **brightness.measured(image),
        }  # fmt: skip
    return row


def no_image(entry: Entry, image: Image) -> dict[str, Any]:
    """The part of a file that holds labels of another one."""
    note = f"a label map, beside {entry.origin}, no image"
    return {"image": image_row(entry, "ignored", Reason.E_NOT_IMAGE, note, image), "cells": []}


def items_of(images: pd.DataFrame) -> pd.Series:
    """(n,) how many cells, objects and tiles each image has."""
    return images[list(hygiene.COUNTS.values())].sum(axis=1)


def summarise(images: pd.DataFrame, items: pd.DataFrame, matched: pd.DataFrame | None) -> dict[str, Any]:
    """Flat counts; the files add up to the number of inputs, and cells are single cells only."""
    counts = {f"images_{status}": int((images["status"] == status).sum()) for status in ("ok", "skipped", "ignored")}
    if sum(counts.values()) != len(images):
        raise AssertionError("every input file must have exactly one row")
    cells = items[items["mode"] == "cell"]
    metrics: dict[str, Any] = {
        "files": len(images), **counts,
        **{f"{mode}s": int((items["mode"] == mode).sum()) for mode in hygiene.COUNTS},
        "dropped": int(images["n_dropped"].sum()), "overlaid": int(images["n_overlay"].sum()),
        **{f"dropped_{flag}": int(images[f"dropped_{flag}"].sum()) for flag in FLAGS},
        "images_without_cells": int(((images["status"] == "ok") & (items_of(images) == 0)).sum()),
        "crops_shrunk": int((items["scale"] < items["scale"].max()).sum()), "scale": float(items["scale"].max()),
    }  # fmt: skip
    metrics |= {f"cells_{group}": int(count) for group, count in cells["group"].value_counts().sort_index().items()}
    if matched is not None:
        metrics |= {f"annotations_{name}": int(count) for name, count in matched["status"].value_counts().items()}
        metrics["annotations"] = len(matched)
        metrics["annotations_matched_share"] = float((matched["status"] == "matched").mean())
    used = images[(images["status"] == "ok") & (items_of(images) > 0)]
    stamps = [*brightness.stamps(used), *unlike_names(used)]
    return metrics | {"stamps": stamps}


def unlike_names(images: pd.DataFrame) -> list[str]:
    """What it means that files name the channels differently that were chosen by number; (n,) images."""
    named = Counter(tuple(names) for names in images["channel_names"] if names is not None)
    if len(named) < 2:
        return []
    listed = "; ".join(f"{', '.join(names)} in {count}" for names, count in named.most_common(LISTED))
    return [f"images name the same channels differently ({listed}): say which with --channels NAME,…"]


def choices(images: pd.DataFrame) -> list[str]:
    """What was chosen in reading these images (n,), such as one of several series or planes, each once with a count."""
    read = images[images["status"] == "ok"]
    notes = [note for text in read["note"].fillna("") for note in text.split("; ") if CHOSEN.search(note)]
    counted_notes = Counter(NUMBER.sub("N", note) for note in notes)
    first = {NUMBER.sub("N", note): note for note in reversed(notes)}
    return [f"{count} image{'s' * (count > 1)}: {first[kind]}" for kind, count in counted_notes.most_common(LISTED)]


def tell(out: Path, strict: bool) -> None:
    """The counts, what was left out and why, the files that were skipped; RejectedInput under --strict."""

    metrics, images = files.read_json(out / "metrics.json"), files.read_parquet(out / "images.parquet")
    counts = {mode: metrics[f"{mode}s"] for mode in MODES}
    read, ignored = metrics["images_ok"], metrics["images_ignored"]
    say(f"segment: {counted(counts)} in {read} images; {ignored} files ignored -> {out}")
    for note in metrics.get("notes", ()):
        say(f"segment: {note}")
    if counts["object"] or counts["tile"]:
        say("segment: objects and tiles are no single cells; the column mode of cells.parquet tells them apart")
    reasons = ", ".join(f"{flag} {metrics[f'dropped_{flag}']}" for flag in FLAGS if metrics[f"dropped_{flag}"])
    if reasons:
        say(f"segment: {metrics['dropped']} dropped: {reasons} (one may have several reasons)")
    drawn = images["note"].fillna("").str.contains(DRAWN)
    if drawn.any():
        where = f"captions, scale bars, lines or strips in {drawn.sum()} images"
        say(f"segment: {where}; {metrics['overlaid']} cells on them left out")
    if "annotations" in metrics:
        share, count = metrics["annotations_matched_share"], metrics["annotations"]
        say(f"segment: {share:.1%} of {count} annotations lie alone in a cell")
    for line in choices(images):
        say(f"segment: in {line}")
    for stamp in metrics.get("stamps", ()):
        say(f"segment: stamp: {stamp}")
    skipped = images[images["status"] == "skipped"]
    for row in skipped.head(LISTED).itertuples():
        say(f"segment: skipped {row.path!r}: {row.reason}, {row.note}")
    if len(skipped) > LISTED:
        say(f"segment: and {len(skipped) - LISTED} more skipped; see images.parquet")
    if strict and len(skipped):
        raise RejectedInput(f"{len(skipped)} of {len(images)} files were rejected and --strict was given")
