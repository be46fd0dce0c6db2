"""Independent units: which items stand or fall together, so that none of them may be on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellvision.branches.items import COLUMNS
from cellvision.cells import families
from cellvision.core.errors import ConfigError
from cellvision.core.progress import say
from cellvision.io import filenames, tables
from cellvision.io.components import linked
from cellvision.io.images import prints
from cellvision.io.spelling import spelling, told

if TYPE_CHECKING:
    import pandas as pd

    from cellvision.branches.items import Items


UNIT_WORD = re.compile(
    r"(?i)slide|patient|donor|subject|case|animal|mouse|rat|plate|well|dish|batch|replicate|experiment|run|image|field|fov"
    r"|site|source|sample|culture"
)
FEW = 3  # items a value that a unit has at least, on average
SHOWN = 3  # columns that are named


def unit_column(items: Items, unit: str | None = None, units: Path | None = None) -> pd.Series:
    """The unit of every item: the table's own, a units.csv, a column, or `COLUMN~REGEX` (first group of the match).

    Sources of the same content are of one unit, and so are units that are spelled in two ways.
    """
    table = items.table
    if units:
        item_unit = _of_items(table, units)
    elif unit == "row":
        item_unit = table["source_id"]
    elif table["unit"].isna().all() and not unit:
        raise ConfigError(unnamed(table))
    elif unit:
        column, tilde, pattern = unit.partition("~")
        if column not in table:
            raise ConfigError(f"no column {column!r} to take units from; columns: {', '.join(table.columns)}")
        item_unit = table[column].astype(str).where(table[column].notna())
        item_unit = item_unit.str.extract(_pattern(pattern), expand=True)[0] if tilde else item_unit
    else:
        item_unit = table["unit"]
    item_unit = item_unit.where(item_unit.astype(str).str.strip() != "")
    if item_unit.isna().any():
        first = table.loc[item_unit.isna(), "source_id"].iloc[0]
        hint = f"; {units} names {_of_sources(units).index[0]!r}" if units else ""
        raise ConfigError(f"{int(item_unit.isna().sum())} items get no unit, such as those of source {first!r}{hint}")
    item_unit = item_unit.astype(str)
    ties = [*copies(table).values(), table["source_id"]]
    if (item_unit != table["source_id"]).any():  # names that somebody wrote
        ties.append(item_unit.map(spelling))
        if line := told(item_unit, "units"):
            say(line)
    return joined(item_unit, ties)


def unnamed(table: pd.DataFrame) -> str:
    """The line that asks for units of rows or ready crops, with the columns that look like one."""
    columns = ", ".join(like_units(table)[:SHOWN])
    hint = f" (perhaps {columns})" if columns else ""
    return (
        "rows of a table, and ready crops, are not independent by themselves; name the column that is with "
        f"--unit{hint}, or say --unit row"
    )


def like_units(table: pd.DataFrame) -> list[str]:
    """Columns of text with few values and many items each, that are no class; those named like a unit come first."""
    no_units = {*COLUMNS, "source_print", "path", "annotation", "mode", "label"}
    texts = [name for name in table if name not in no_units and table[name].dtype.kind in "OT"]
    classes = table["annotation"] if "annotation" in table else table["group"]
    alike = []
    for name in texts:
        value = table[name].dropna().astype(str)
        repeated = 2 <= value.nunique() <= len(value) / FEW
        a_class = value.groupby(classes[value.index].astype(str)).nunique().max() == 1 if repeated else True
        if repeated and not a_class:
            alike.append(str(name))
    return sorted(alike, key=lambda name: UNIT_WORD.search(name) is None)


def copies(table: pd.DataFrame) -> dict[str, pd.Series]:
    """What ties items of the same content, (n,) values each: their hash, and a label for images and rows alike."""
    import pandas as pd

    ties = {"items of the same content": table["source_hash"]}
    if "source_print" in table:
        label = prints.joined(table["source_print"].fillna("").tolist())
        ties["nearly identical images"] = pd.Series(label, table.index).where(table["source_print"].fillna("") != "")
    if "source_twin" in table:
        ties["repeated or rounded rows"] = table["source_twin"].where(table["source_twin"] != "")
    return ties


def duplicates(table: pd.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """Sets of sources of the same or nearly the same content, and those of them that stand in more than one group.

    Such a set begins with one of each group.
    """
    sources = table.drop_duplicates("source_id").sort_values("source_id")
    first = joined(sources["source_id"].astype(str), list(copies(sources).values()))
    same = [rows for _, rows in sources.groupby(first.to_numpy()) if len(rows) > 1]
    return (
        [rows["source_id"].tolist() for rows in same],
        [
            rows.loc[rows["group"].duplicated().sort_values(kind="stable").index, "source_id"].tolist()
            for rows in same
            if rows["group"].nunique() > 1
        ],
    )


def conflict_told(conflicts: list[list[str]]) -> list[str]:
    """The line about sets of sources that are one and stand in several groups, where there are any."""
    if not conflicts:
        return []
    example = " and ".join(conflicts[0][:2])
    what = f"label conflict: {len(conflicts)} sets of identical or nearly identical sources stand in different groups"
    return [f"{what}, such as {example}"]


def _of_items(table: pd.DataFrame, path: Path) -> pd.Series:
    """(n,) unit of each item by its source, or by the name of the file that the source is, on any system."""
    unit_of = _of_sources(path)
    unit = table["source_id"].map(unit_of)
    if "path" not in table or unit.notna().all():
        return unit
    sources = table.drop_duplicates("source_id").reset_index(drop=True)
    positions = filenames.match(unit_of.index.tolist(), sources["path"].astype(str).tolist())
    by_source = {sources["source_id"][at]: unit_of.iloc[row] for row, at in enumerate(positions) if at is not None}
    return unit.fillna(table["source_id"].map(by_source))


def notes_on(images: pd.DataFrame) -> Iterator[str]:
    """Rows of images.parquet -> lines about pictures in several groups, families of files, and odd groups."""
    read = images[images["status"] == "ok"].rename(columns={"image_id": "source_id", "pixel_hash": "source_hash"})
    yield from conflict_told(duplicates(read)[1])
    yield from families.told(read)
    yield from families.outputs_told(read["group"])
    folders = read["path"].where(read["path"].str.contains("/"), read["group"]).str.split("/").str[0]
    yield from filter(None, [told([*folders, *read["group"]], "groups")])


def _of_sources(path: Path) -> pd.Series:
    """source_id -> unit as a CSV says it. ConfigError for a source without unit, or with two."""
    given = tables.read_text(path, ("source_id", "unit"))
    empty = (given[["source_id", "unit"]].isna() | given[["source_id", "unit"]].eq("")).any(axis=1)
    tables.refuse(path, empty, ": a source and its unit are needed, one is empty")
    again = given.groupby("source_id")["unit"].transform("first").ne(given["unit"]).to_numpy()
    if again.any():
        row = given.iloc[int(again.argmax())]
        raise ConfigError(
            f"{tables.place(path, int(again.argmax()))}: source {row['source_id']!r} has the unit {row['unit']!r} here "
            "and another above"
        )
    return given.drop_duplicates("source_id").set_index("source_id")["unit"]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--unit: {text!r} is no regular expression ({error})") from None
    if pattern.groups < 1:
        raise ConfigError(f"--unit: {text!r} needs a group in parentheses, the part that names the unit")
    return pattern


def joined(unit: pd.Series, ties: Sequence[pd.Series]) -> pd.Series:
    """(n,) units, made one where their items share a value in any of `ties`, (n,) each (connected components).

    A missing value ties nothing. A unit of several names has the first of them.
    """
    columns = [column.astype("category").cat for column in (unit, *ties)]
    starts = np.cumsum([0, *(len(column.categories) for column in columns)])
    home = columns[0].codes.to_numpy(np.int64)
    edges = [(home[tie.codes >= 0], tie.codes[tie.codes >= 0].to_numpy(np.int64) + start)
             for tie, start in zip(columns[1:], starts[1:], strict=False)]  # fmt: skip
    rows, ends = (np.concatenate([edge[side] for edge in edges]) for side in (0, 1))
    component = linked(rows, ends, starts[-1])[: starts[1]]
    first = np.unique(component, return_index=True, return_inverse=True)
    names = columns[0].categories.to_numpy()[first[1]][first[2]]
    return unit.map(dict(zip(columns[0].categories, names, strict=True)))
