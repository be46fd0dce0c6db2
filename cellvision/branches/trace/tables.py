"""Traces in a table: wide (a row a trace, columns such as ERK_0, ERK_1 …) or long (a row a trace and time)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.trace.store import TRACE
from cellvision.core.errors import ConfigError
from cellvision.io import matrices, tables

if TYPE_CHECKING:
    import pandas as pd

LEAST = 8  # numbered columns that make a channel
WIDE = re.compile(r"^(.*?)[_ .:-]?(\d+)$")
IDS = ("id", "trace", "trace_id", "track", "track_id", "trackid", "cell", "cell_id", "item_id")
TIMES = ("time", "t", "frame", "timepoint", "time_point", "realtime", "metadata_t")
CLASSES = ("class", "class_name")  # columns of classes.csv, which names the codes of the class column


@dataclass(frozen=True)
class TraceTable:
    """table: one row a trace with its id and what else is known; values (n, channels, time), NaN where unknown."""

    table: pd.DataFrame
    id_column: str
    values: NDArray[np.float32]
    channels: tuple[str, ...]


def find(path: Path) -> Path | None:
    """The table behind a path: itself, or the `dataset.csv` of a folder."""
    if path.is_dir():
        return next((path / name for name in ("dataset.csv", "dataset.csv.gz") if (path / name).is_file()), None)
    return path


def read(
    path: Path, id_column: str | None, time_column: str | None, channels: tuple[str, ...], labels: tuple[str, ...] = ()
) -> TraceTable:
    """CSV or Parquet; columns of labels are no channels. ConfigError names the line or column that does not fit."""
    raw = named_classes(_read(path), path.parent / "classes.csv")
    name = _pick(raw, id_column, IDS, "id")
    wide = _wide(raw, channels)
    if wide and time_column is None:
        if name is None:
            raw, name = raw.assign(id=[f"row{number:06d}" for number in range(len(raw))]), "id"
        return _from_wide(raw, name, wide, path)
    time = _pick(raw, time_column, TIMES, "time")
    if name is None or time is None:
        raise ConfigError(
            f"{path} looks neither wide (columns such as ERK_0, ERK_1 …) nor long (a column of ids and one of times); "
            "name them with --set branch.id_column=… and branch.time_column=…"
        )
    return _from_long(raw, (name, time), channels, labels, path)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise ConfigError(
            f"no traces at {path}; expected HDF5 files or a folder of them, an extraction, CSV or Parquet"
        )
    if tables.kind_of(path) == "parquet":
        return tables.read_parquet(path).frame
    table = matrices.read(path, matrices.dialect_of(path))
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise ConfigError(f"{tables.place(path, 0)} has more fields than the header has names")
    return table


def named_classes(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Codes replaced by the names that a classes.csv beside the table gives them: words have no order."""
    if CLASSES[0] not in table or not path.is_file():
        return table
    names = tables.read_text(path)
    if not {*CLASSES} <= {*names.columns}:
        return table
    name_of_code = names.set_index(CLASSES[0])[CLASSES[1]]
    codes = table[CLASSES[0]].astype(str)
    unknown = codes[~codes.isin(name_of_code.index)]
    if len(unknown):
        raise ConfigError(f"{path} has no name for class {unknown.iloc[0]!r} of row {unknown.index[0] + 2}")
    return table.assign(**{CLASSES[0]: codes.map(name_of_code)})


def _pick(table: pd.DataFrame, given: str | None, usual: tuple[str, ...], what: str) -> str | None:
    if given is not None and given not in table:
        raise ConfigError(f"no column {given!r} for the {what}; columns: {', '.join(map(str, table.columns[:12]))} …")
    lower = {str(name).lower(): str(name) for name in table.columns}
    return given or next((lower[name] for name in usual if name in lower), None)


def _wide(table: pd.DataFrame, channels: tuple[str, ...]) -> dict[str, dict[int, str]]:
    """channel -> time -> column, of prefixes with at least LEAST numbers; only those asked for, where some are."""
    columns: dict[str, dict[int, str]] = {}
    for column in table.columns:
        match = WIDE.match(str(column))
        if match:
            columns.setdefault(match[1] or TRACE, {})[int(match[2])] = column
    columns = {name: times for name, times in columns.items() if len(times) >= LEAST}
    missing = [name for name in channels if name not in columns]
    if columns and missing:
        raise ConfigError(f"no channel {missing[0]!r}; channels: {', '.join(columns)}")
    return {name: columns[name] for name in channels} if channels and columns else columns


def _from_wide(table: pd.DataFrame, name: str, wide: dict[str, dict[int, str]], path: Path) -> TraceTable:
    times = sorted({time for columns in wide.values() for time in columns})
    place = {time: number for number, time in enumerate(times)}
    values = np.full((len(table), len(wide), len(times)), np.nan, np.float32)
    for number, columns in enumerate(wide.values()):
        order = sorted(columns)
        values[:, number, [place[time] for time in order]] = _numbers(table[[columns[t] for t in order]], path)
    rest = table.drop(columns=[column for columns in wide.values() for column in columns.values()])
    return TraceTable(rest, name, values, tuple(wide))


def _numbers(table: pd.DataFrame, path: Path) -> NDArray[np.float32]:
    """Columns as float32, infinities as unknown. ConfigError names the first cell that is no number."""
    values = tables.as_numbers(table, path).to_numpy(np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def _from_long(
    table: pd.DataFrame, key: tuple[str, str], channels: tuple[str, ...], labels: tuple[str, ...], path: Path
) -> TraceTable:
    """Columns that change within a trace are its channels, the others are known of the trace."""
    import pandas as pd

    name, time = key
    twice = table.duplicated([name, time])
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        trace, when = table[name].iloc[row], table[time].iloc[row]
        raise ConfigError(f"{tables.place(path, row)}: {trace} has the time {when} twice")
    codes, ids = pd.factorize(table[name].astype(str))
    varying = table.groupby(codes).nunique(dropna=True).max() > 1
    numeric = table.select_dtypes("number").columns
    measured = list(channels) or [column for column in numeric if varying[column] and column not in (*key, *labels)]
    lost = [column for column in measured if column not in table]
    if lost or not measured:
        raise ConfigError(
            f"{path} has no channel {lost[0]!r}" if lost else f"{path} has no numbers that change with time"
        )
    grid = np.sort(table[time].unique())
    longest = int(np.bincount(codes).max())
    if len(grid) > 4 * longest:
        raise ConfigError(f"{path}: {len(grid)} different times for traces of at most {longest}; put them on one grid")
    values = np.full((len(ids), len(measured), len(grid)), np.nan, np.float32)
    values[codes, :, np.searchsorted(grid, table[time].to_numpy())] = _numbers(table[measured], path)
    per_trace = table.loc[
        ~pd.Series(codes).duplicated().to_numpy(), [c for c in table.columns if not varying[c] or c == name]
    ]
    return TraceTable(
        per_trace.drop(columns=[c for c in (time,) if c in per_trace]).reset_index(drop=True),
        name,
        values,
        tuple(measured),
    )
