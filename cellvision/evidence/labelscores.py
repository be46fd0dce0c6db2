"""A segment run against true label maps: a row an image, and means by group and by metadata, with intervals over units.

Truth is found by the image's path below raw without its suffix (`rbc/one.png` -> `rbc/one.tif`; also `rbc/one.png.tif`,
and with _cp_masks or _masks after the name), by its image_id, or by its bare name where only one file and one image
have it. Every image has a row: scored, or why not. Scored is all that lies in masks/, with what `--drop` left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.progress import say
from cellvision.evidence import intervals, maskhistory, overlap
from cellvision.evidence.seen import Seen
from cellvision.executors import local
from cellvision.io import geojson, imagejrois, labelmaps, tables
from cellvision.io.components import components
from cellvision.io.images.pixels import ImageError
from cellvision.io.rawfolder import Entry

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (*geojson.IMAGE_SUFFIXES, *geojson.GEOJSON_SUFFIXES, *imagejrois.SUFFIXES)
ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label")  # what programs add to an image's name
MEASURES = tuple(f"{what}_{round(100 * threshold)}" for threshold in overlap.THRESHOLDS for what in ("ap", "f1"))
OWN = ("image_id", "path", "group", "mode", "status", "note", "by", "value", "n_true", "n_found", *MEASURES)
STATUS = {
    "no_truth": "have no label map", "ambiguous": "have several label maps", "unreadable": "have one of no use",
    "not_segmented": "have one but could not be read themselves", "tiles": "have one but were cut into tiles",
}  # fmt: skip
SCORED = "scored"
BINARY = "one label in several pieces: is it a binary mask?"


@dataclass(frozen=True)
class Truth:
    """True label maps by name, and the table that describes the images (a row an image, column `image`)."""

    folder: Path
    maps: dict[str, list[Path]]
    table: pd.DataFrame | None
    by: tuple[str, ...]
    unit: str | None


def find(folder: Path, metadata: Path | None = None, by: Iterable[str] = (), unit: str | None = None) -> Truth:
    """List the label maps below `folder` and read the columns to report by; whatever a person can mend is said here."""
    maps = listed(folder, "--truth", "true label maps")
    columns = tuple(dict.fromkeys([*by, *([unit] if unit else [])]))
    taken = [name for name in columns if name in OWN]
    if taken:
        raise ConfigError(f"{taken[0]!r} is a column of the result itself; rename it in the metadata")
    if columns and metadata is None:
        raise ConfigError(f"to score by {', '.join(columns)} give --metadata, a CSV with that column and `image`")
    table = tables.read_text(metadata, ("image", *columns))[["image", *columns]].fillna("") if metadata else None
    return Truth(folder, maps, table, tuple(by), unit)


def listed(folder: Path, flag: str, what: str = "label maps") -> dict[str, list[Path]]:
    """Label maps below a folder by their path without suffix; ConfigError where there are none, naming the flag."""
    if not folder.is_dir():
        raise ConfigError(f"no folder of {what} at {folder}; {flag} names one that mirrors --raw")
    maps: dict[str, list[Path]] = {}
    others = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix.lower() in SUFFIXES:
            maps.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
        else:
            others.append(path)
    if not maps:
        for path in others:
            files.refuse_pickled(path, geojson.INSTEAD_OF_PICKLES)
        raise ConfigError(f"no label maps below {folder}; expected files that end in {', '.join(SUFFIXES)}")
    return maps


# -- which truth belongs to which image ---------------------------------------------------------------------------


def names_of(path: str, image_id: str) -> Iterator[str]:
    """Keys a label map of this image may have, the surest first."""
    for name in (path, path.rpartition(".")[0] or path, f"{path.partition('/')[0]}/{image_id}", image_id):
        yield from (name, *(f"{name}{ending}" for ending in ENDINGS))


def assign(images: pd.DataFrame, maps: dict[str, list[Path]]) -> list[list[Path]]:
    """For each image the label maps that may be its truth: one where all is well."""
    bare: dict[str, list[Path]] = {}
    for name, paths in maps.items():
        bare.setdefault(_bare(name), []).extend(paths)
    stems = [path.rpartition("/")[2].rpartition(".")[0] for path in images["path"]]
    alone = {stem for stem, count in Counter(stems).items() if count == 1}
    candidates = []
    for path, image_id, stem in zip(images["path"], images["image_id"], stems, strict=True):
        named = next((maps[name] for name in names_of(path, image_id) if name in maps), None)
        candidates.append(named or (bare.get(stem, []) if stem in alone else []))
    taken = Counter(path for paths in candidates for path in paths)
    return [paths if len(paths) != 1 or taken[paths[0]] == 1 else [paths[0], paths[0]] for paths in candidates]


def maps_of(entries: Sequence[Entry], folder: Path) -> list[list[Path]]:
    """For each file of a raw folder the label maps below `folder` that may be of its cells."""
    import pandas as pd

    images = pd.DataFrame({"path": [entry.relative for entry in entries], "image_id": [e.image_id for e in entries]})
    return assign(images, listed(folder, "--masks"))


def _bare(name: str) -> str:
    """The last part of a key without what Cellpose adds to it."""
    last = name.rpartition("/")[2]
    return next((last.removesuffix(ending) for ending in ENDINGS if last.endswith(ending)), last)


# -- scores -------------------------------------------------------------------------------------------------------


def score_run(out: Path, truth: Truth, workers: int | None = None, history: Seen | None = None) -> dict[str, Any]:
    """Score the finished segment run in `out`; writes truth.parquet, truth.csv and truth.json and returns the last.

    history: what the segmenter was trained on, which the scores say.

    Raises NoUsableInput when no image can be scored, ConfigError when one of them lacks a unit.
    """
    import pandas as pd

    images = files.read_parquet(out / "images.parquet")
    images = images[images["status"] != "ignored"].sort_values("path", ignore_index=True)
    state = images["status"].where(images["mode"] != "tile", "tile") if "mode" in images else images["status"]
    tasks = [
        (out / "masks" / f"{image_id}.tif", status, paths)
        for image_id, status, paths in zip(images["image_id"], state, assign(images, truth.maps), strict=True)
    ]
    workers = local.cores() if workers is None else workers
    scored = pd.DataFrame(list(local.ordered_map(score_one, tasks, min(workers, len(tasks)))))
    modes = ["mode"] if "mode" in images and images["mode"].nunique() > 1 else []
    table = pd.concat([images[["image_id", "path", "group", *modes]], scored], axis=1)
    table = _described(table, images, truth)
    good = table[table["status"] == SCORED]
    used = {path for _, _, paths in tasks for path in paths}
    unused = [path for paths in truth.maps.values() for path in paths if path not in used]
    if good.empty:
        notes = [note for note in table["note"] if note]
        advice = f"a label map is named like its image, such as {next(names_of(*images[['path', 'image_id']].iloc[0]))}"
        raise NoUsableInput(f"no image could be scored ({_listing(table)}): {notes[0] if notes else advice}")
    summary = pd.DataFrame(list(summaries(good, ("group", *modes, *truth.by))))
    counts = {name: int((table["status"] == name).sum()) for name in (SCORED, *STATUS)}
    single = int((good["note"] == BINARY).sum())
    scores = {**counts, "truth_unused": len(unused), "one_label_in_pieces": single, "by": list(truth.by)}
    scores |= {"unit": truth.unit or "image", **summary.iloc[0].drop(["by", "value"]).to_dict()}
    files.write_parquet(out / "truth.parquet", table)
    files.write_csv(out / "truth.csv", summary)
    scored_images = images[(table["status"] == SCORED).to_numpy()]
    scores["stamps"] = maskhistory.truth_stamps(history or Seen(), scored_images)
    files.write_json(out / "truth.json", scores)
    _tell(scores, table)
    return scores


def score_one(task: tuple[Path, str, list[Path]]) -> dict[str, Any]:
    """One image: what `overlap.score` says of it, or the status and note that say why there is no score."""
    mask, status, paths = task
    if not paths:
        return {"status": "no_truth", "note": ""}
    if len(paths) > 1:
        return {"status": "ambiguous", "note": ", ".join(path.name for path in paths)}
    if status != "ok":
        return {"status": "tiles" if status == "tile" else "not_segmented", "note": ""}
    predicted = labelmaps.read(mask)
    try:
        true = geojson.read_labels(paths[0], predicted.shape)
    except ImageError as error:
        return {"status": "unreadable", "note": str(error)}
    note = BINARY if _looks_binary(true.labels) else "; ".join(true.notes)
    return {"status": SCORED, "note": note, **overlap.score(true.labels, predicted)}


def _looks_binary(labels: NDArray[np.int32]) -> bool:
    return int(labels.max()) in (1, 255) and len(np.unique(labels)) == 2 and int(components(labels > 0, 8).max()) > 1


def _described(table: pd.DataFrame, images: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """With the columns of the metadata, and the unit: the column asked for, else the picture (duplicates are one)."""
    for column in MEASURES:
        if column not in table:
            table[column] = np.nan
    pictures = images["pixel_hash"].fillna(images["image_id"]) if "pixel_hash" in images else images["image_id"]
    if truth.table is None:
        return table.assign(unit=pictures)
    rows = _rows_of(images["path"], truth.table["image"])
    described = [row is not None for row in rows]
    for column in dict.fromkeys([*truth.by, *([truth.unit] if truth.unit else [])]):
        values = truth.table[column].to_numpy(object)
        table[column] = [values[row] if row is not None else "" for row in rows]
    if truth.unit is None:
        return table.assign(unit=pictures)
    table["unit"] = table[truth.unit]
    lost = table[(table["status"] == SCORED) & (~np.array(described) | (table["unit"] == ""))]
    if len(lost):
        raise ConfigError(
            f"{len(lost)} scored images have no {truth.unit!r} in the metadata, such as {lost['path'].iloc[0]!r};"
            " add them and repeat the command"
        )
    return table


def _rows_of(paths: Iterable[str], names: pd.Series) -> list[int | None]:
    """For each image the row that describes it: by its path, else by its bare name where one row has it."""
    whole = {name: row for row, name in enumerate(names)}
    last = [name.rpartition("/")[2] for name in names]
    counts = Counter(last)
    bare = {name: row for row, name in enumerate(last) if counts[name] == 1}
    return [whole.get(path, bare.get(path.rpartition("/")[2])) for path in paths]


def summaries(table: pd.DataFrame, by: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Scored images -> one row for all of them, then one for each value of each column."""
    yield {"by": "all", "value": "", **summary(table)}
    for column in dict.fromkeys(by):
        for value, rows in table.groupby(column, sort=True):
            yield {"by": column, "value": str(value), **summary(rows)}


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Scored images -> counts, the error of the count, and means of AP and F1 with their intervals over units."""
    whole = overlap.summarise(table.to_dict("records"))
    counts = {"images": len(table), "units": int(table["unit"].nunique()), "cells_true": int(table["n_true"].sum())}
    counts["cells_found"] = int(table["n_found"].sum())
    unit = table["unit"].to_numpy(str)
    out: dict[str, Any] = {**counts, "count_error": whole["count_error"]}
    for name in MEASURES:
        mean = mean_over_units(table[name].to_numpy(float), unit)
        out |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return out


def mean_over_units(values: NDArray[np.float64], unit: NDArray) -> intervals.Interval:
    """(n,) shares of images in 0..1 and their units -> their mean and its interval, images of one unit as one witness.

    Student's t over the units' sums of deviations (Cochran 1977, Sampling Techniques, chapter 6). Where none deviates
    the interval is the exact binomial one; a single unit says nothing, so that all from 0 to 1 remains possible.
    """
    from scipy.stats import t

    mean = float(values.mean())
    _, inverse = np.unique(unit, return_inverse=True)
    count = int(inverse.max()) + 1
    if count == 1:
        return intervals.Interval(mean, 0.0, 1.0, 1)
    deviation = np.bincount(inverse, values - mean)
    error = float(np.sqrt(count / (count - 1) * (deviation**2).sum()) / len(values))
    if error < 1e-12:
        exact = intervals.exact_binomial(round(mean * count), count)
        return intervals.Interval(mean, min(exact.low, mean), max(exact.high, mean), count)
    reach = float(t.ppf((1 + intervals.LEVEL) / 2, count - 1)) * error
    return intervals.Interval(mean, max(0.0, mean - reach), min(1.0, mean + reach), count)


# -- the person ---------------------------------------------------------------------------------------------------


def _listing(table: pd.DataFrame) -> str:
    counts = table["status"].value_counts()
    return ", ".join(f"{counts[name]} {text}" for name, text in STATUS.items() if counts.get(name, 0))


def _tell(scores: dict[str, Any], table: pd.DataFrame) -> None:
    say(
        f"segment: against {scores[SCORED]} label maps"
        f" ({scores['cells_true']} true cells, {scores['cells_found']} found):"
        f" AP {scores['ap_50']:.3f} ({scores['ap_50_low']:.3f} to {scores['ap_50_high']:.3f}, {scores['units']} units)"
        f" at IoU 0.5, F1 {scores['f1_50']:.3f}, count error {scores['count_error']:.1%}"
    )
    for stamp in scores["stamps"]:
        say(f"segment: stamp of these scores: {stamp}")
    missing = _listing(table)
    if missing:
        say(f"segment: not scored: of {len(table)} images {missing}")
    bad = table[table["status"].isin(["unreadable", "ambiguous"])]
    for row in bad.head(3).itertuples():
        say(f"segment: not scored {row.path!r}: {row.note}")
    if scores["truth_unused"]:
        say(f"segment: {scores['truth_unused']} label maps belong to no image")
    if scores["one_label_in_pieces"]:
        say(f"segment: {scores['one_label_in_pieces']} label maps hold {BINARY}")
