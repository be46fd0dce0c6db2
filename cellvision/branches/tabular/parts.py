"""One table out of the several that a program writes: CellProfiler has one for the images and one for each object.

A folder of them is joined by image and object; a single table of objects takes what describes its images from the
table of images beside it. Columns that say what a row is are read as they were written (`Whole.labels`).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files, rundir
from cellvision.core.config import fingerprint
from cellvision.core.errors import ConfigError
from cellvision.io import csvtables, tables

if TYPE_CHECKING:
    import pandas as pd

IMAGE, OBJECT = "ImageNumber", "ObjectNumber"
OBJECTS = ("Number_Object_Number",)  # other names of the object's number
IMAGES = "Image"  # the table of images
MAIN = "Cells"  # the objects that are the items, where there are several kinds
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".txt")


@dataclass(frozen=True)
class Part:
    """A file: `rows` (n,) its row for each item, -1 where it has none; `names`: its columns -> those of the whole."""

    path: Path
    frame: pd.DataFrame
    rows: NDArray[np.int64]
    names: dict[str, str]


@dataclass(frozen=True)
class Whole:
    """The joined table, and the files it is made of, the one whose rows are the items first."""

    table: csvtables.Table
    parts: tuple[Part, ...]
    content: str

    def labels(self, names: Collection[str], separator: str | None = None) -> pd.DataFrame:
        """Those of the columns that there are, as text, None where a cell is empty."""
        import pandas as pd

        found = [
            tables.labels(part.path, [own for own, name in part.names.items() if name in names], separator)
            .rename(columns=part.names).reindex(part.rows).reset_index(drop=True)
            for part in self.parts
        ]  # fmt: skip
        joined = pd.concat(found, axis=1)
        return joined.astype(object).where(joined.notna(), None)

    def lines(self, name: str, rows: NDArray[np.int64]) -> str:
        """For a message: the lines that (n,) rows of the whole stand on, in the file that has the column."""
        part = next(part for part in self.parts if name in part.names.values())
        there = np.unique(part.rows[rows])
        where = tables.lines(part.path, there[there >= 0].tolist()) if (there >= 0).any() else "no line"
        return where if part is self.parts[0] else f"{part.path.name}, {where}"


@functools.lru_cache(maxsize=1)
def _open(path: Path, content: str, separator: str | None, decimal: str | None) -> Whole:
    kinds = _of_folder(path) if path.is_dir() else {"": path}
    beside = None if path.is_dir() else _images_beside(path)
    read = {kind: tables.read(file, separator, decimal) for kind, file in kinds.items() if kind != IMAGES}
    main = MAIN if MAIN in read else next(iter(read))
    first = read[main].frame
    parts = [Part(kinds[main], first, np.arange(len(first)), _prefixed(first, main))]
    notes = [*read[main].notes]
    for kind in (kind for kind in read if kind != main):
        rows = _object_rows(first, read[kind].frame, main, kind, kinds[kind])
        if rows is None:
            notes.append(f"{kinds[kind].name} has several rows for one of {kinds[main].name} and is left out")
            continue
        parts.append(Part(kinds[kind], read[kind].frame, rows, _prefixed(read[kind].frame, kind)))
    images = kinds.get(IMAGES, beside)
    if images is not None and IMAGE in first:
        frame = tables.read(images, separator, decimal).frame
        taken = {name for part in parts for name in part.names.values()}
        names = {str(name): str(name) for name in frame if name not in taken}
        if names:
            parts.append(Part(images, frame, _image_rows(first, frame, images), names))
    if len(parts) > 1:
        names_of = ", ".join(part.path.name for part in parts[1:])
        notes.append(f"joined by image and object: {parts[0].path.name} with {names_of}")
    table = csvtables.Table(_assembled(parts, images), tuple(notes), _faults(parts, read, kinds), read[main].dialect)
    return Whole(table, tuple(parts), _content(path, parts))


def open_table(path: Path, separator: str | None = None, decimal: str | None = None) -> Whole:
    """The table, read once by a process that opens it for one fold after another; nobody changes it."""
    if path.is_dir():
        return _open(path, files.hash_tree(path), separator, decimal)
    beside = _images_beside(path) if path.is_file() else None
    content = files.sha256_file(path) if path.is_file() else ""
    return _open(path, content + (files.sha256_file(beside) if beside else ""), separator, decimal)


def _content(path: Path, parts: list[Part]) -> str:
    """What the parts hold; that of the file itself where it is one."""
    if len(parts) == 1 and not path.is_dir():
        return rundir.content_of(path)
    return fingerprint([files.sha256_file(part.path) for part in parts])


def kind_of(path: Path) -> str:
    """MyExpt_Cells.csv -> Cells."""
    return path.name.split(".")[0].rpartition("_")[2]


def _of_folder(folder: Path) -> dict[str, Path]:
    """Kind of object -> its table, of the tables in a folder that CellProfiler numbers. ConfigError without any."""
    kinds = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.lower().endswith(SUFFIXES) and IMAGE in tables.names(path):
            kinds[kind_of(path)] = path
    if not {*kinds} - {IMAGES}:
        raise ConfigError(
            f"{folder} holds no tables of CellProfiler (CSV with {IMAGE}, one of them of objects); name one table"
        )
    return kinds


def is_folder(folder: Path) -> bool:
    """Whether a folder holds a table of CellProfiler's objects."""
    tables_there = (path for path in folder.iterdir() if path.is_file() and path.name.lower().endswith(SUFFIXES))
    return any(IMAGE in tables.names(path) and kind_of(path) != IMAGES for path in tables_there)


def _images_beside(path: Path) -> Path | None:
    """The table of the images that a table of objects belongs to."""
    if kind_of(path) == IMAGES or not path.name.lower().endswith(SUFFIXES):
        return None
    name = path.name.replace(kind_of(path), IMAGES)
    beside = path.with_name(name)
    there = beside != path and beside.is_file() and IMAGE in tables.names(path) and IMAGE in tables.names(beside)
    return beside if there else None


def _prefixed(frame: pd.DataFrame, kind: str) -> dict[str, str]:
    """Columns under the name of their object, as CellProfiler's own database has them."""
    plain = {IMAGE, OBJECT, csvtables.INDEX} if kind in (MAIN, "") else {csvtables.INDEX}
    own = [str(name) for name in frame]
    if not kind:
        return {name: name for name in own}
    return {
        name: name if name in plain or name.startswith("Metadata_") else f"{kind}_{name}"
        for name in own
        if kind == MAIN or not (name in (IMAGE, OBJECT) or name.startswith("Metadata_"))
    }


def _assembled(parts: list[Part], images: Path | None) -> pd.DataFrame:
    """Side by side; of an image only what describes it, since its measurements are not the object's."""
    import pandas as pd

    if len(parts) == 1 and all(own == name for own, name in parts[0].names.items()):
        return parts[0].frame
    frames = []
    for part in parts:
        wanted = [own for own in part.names if part.path != images or _describes(part.frame, own)]
        frames.append(part.frame[wanted].rename(columns=part.names).reindex(part.rows).reset_index(drop=True))
    return pd.concat(frames, axis=1)


def _describes(frame: pd.DataFrame, name: str) -> bool:
    return name.startswith("Metadata_") or frame[name].dtype.kind not in "iufb"


def _faults(parts: list[Part], read: dict[str, csvtables.Table], kinds: dict[str, Path]) -> dict[str, str]:
    table_of = {kinds[kind]: table for kind, table in read.items()}
    return {
        part.names[own]: text if len(parts) == 1 else f"{part.path.name}, {text}"
        for part in parts if part.path in table_of
        for own, text in table_of[part.path].faults.items() if own in part.names
    }  # fmt: skip


def _image_rows(objects: pd.DataFrame, images: pd.DataFrame, path: Path) -> NDArray[np.int64]:
    """(n,) row of each object's image. ConfigError where that cannot be told."""
    rows = _matched(objects, images, [IMAGE], [IMAGE])
    if rows is None:
        raise ConfigError(
            f"{path}: an {IMAGE} stands more than once, and no Metadata_ column that both tables have tells which is "
            "meant; join the tables of one plate at a time"
        )
    if (rows < 0).all():
        mine, theirs = objects[IMAGE].iloc[0], images[IMAGE].iloc[0]
        raise ConfigError(f"{path} knows none of the images: the objects have {IMAGE} {mine}, it has {theirs}")
    return rows


def _object_rows(main: pd.DataFrame, other: pd.DataFrame, name: str, kind: str, path: Path) -> NDArray[np.int64] | None:
    """(n,) row of another object for each of the main ones, by parent where one is named; None for several a row."""
    number = {frame: next((n for n in (OBJECT, *OBJECTS) if n in table), None)
              for frame, table in (("main", main), ("other", other))}  # fmt: skip
    parent, child = f"Parent_{name}", f"Parent_{kind}"
    left, right = (child, number["other"]) if child in main else (number["main"], number["other"])
    if parent in other:
        left, right = number["main"], parent
    if left is None or right is None:
        raise ConfigError(f"{path} has no {OBJECT} by which it can be joined")
    return _matched(main, other, [IMAGE, left], [IMAGE, right])


def _matched(
    left: pd.DataFrame, right: pd.DataFrame, left_keys: list[str], right_keys: list[str]
) -> NDArray[np.int64] | None:
    """(n,) row of `right` for each of `left`, -1 for none; None where the keys do not tell.

    Numbers that start again on every plate are told apart by the metadata both have, else by an order both share.
    """

    shared = [str(name) for name in left if str(name).startswith("Metadata_") and name in right]
    for more in ([], shared):
        keys = _keys(right, [*right_keys, *more])
        if keys.is_unique:
            return np.asarray(keys.get_indexer(_keys(left, [*left_keys, *more])), np.int64)
    wanted, there = _keys(left, left_keys), _keys(right, right_keys)
    begins = np.concatenate([[True], wanted[1:] != wanted[:-1]])
    runs = wanted[begins]
    if len(runs) == len(there) and all(a == b for a, b in zip(runs, there, strict=True)):
        return np.cumsum(begins) - 1
    return None


def _keys(frame: pd.DataFrame, names: Iterable[str]) -> pd.Index:
    import pandas as pd

    return pd.MultiIndex.from_frame(frame[[*names]].set_axis(range(len([*names])), axis=1))
