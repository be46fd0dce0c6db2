"""Traces in a table: wide (a row a trace, columns such as ERK_0, ERK_1 … or ERK_2.5min), long (a row a trace and time),
or a column a trace with the time down the rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import descriptors
from cellvision.branches.trace.store import TRACE
from cellvision.core.errors import ConfigError
from cellvision.core.progress import say
from cellvision.io import csvtables, tables
from cellvision.io.dialect import MISSING

if TYPE_CHECKING:
    import pandas as pd

LEAST = 8  # numbered columns that make a channel
LEAST_TIMED = 3  # columns that make one where their names say a time: ERK_2.5min
NUMBERED = re.compile(r"^(.*?)[_ .:-]?(\d+)$")
TIMED = re.compile(
    r"(?i)^(.*?)([_ .:=]*)(-?)[\[(]?\s*(?:(?:t|time)\s*[_=]\s*)?(\d+(?:\.\d+)?)\s*"
    r"(ms|s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|d|days?|frames?)\s*[\])]?$"
)
DECIMAL = re.compile(r"^(.*?)(?:^|[_ :])(-?\d+\.\d+|-?\d+)$")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "f": 1}
IDS = (
    "trace", "trace_id", "track", "track_id", "trackid", "id", "cell", "cell_id", "item_id",
)  # fmt: skip
TIMES = ("time", "t", "frame", "timepoint", "time_point", "realtime", "metadata_t", "position_t")
TIME_UNIT = re.compile(r"(?:[\s_]+|\s*[\[(]\s*)(?:ms|s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|frames?)\s*[\])]?$")
CLASSES = ("class", "class_name")  # columns of classes.csv, which names the codes of the class column
LAYOUTS = ("auto", "wide", "long", "columns")


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
    path: Path,
    id_column: str | None,
    time_column: str | None,
    channels: tuple[str, ...],
    labels: tuple[str, ...] = (),
    layout: str = "auto",
) -> TraceTable:
    """CSV or Parquet; columns of labels are no channels. ConfigError names the line or column that does not fit.

    `layout`: wide (a row a trace), long (a row a trace and time) or columns (a column a trace, time down the rows).
    """
    raw, faults = _read(path, {*labels, *IDS, id_column or "", CLASSES[0]})
    raw = named_classes(raw, path.parent / "classes.csv")
    name = _pick(raw, id_column, IDS, "id")
    time = _pick(raw, time_column, TIMES, "time")
    if layout == "columns" or (layout == "auto" and name is None and _is_clock(raw, time)):
        return _from_columns(raw, time, labels, path, faults)
    wide = _wide(raw, channels) if layout != "long" else {}
    if wide and time_column is None:
        if name is None:
            raw, name = raw.assign(id=[f"row{number:06d}" for number in range(len(raw))]), "id"
        _refuse_faults(path, faults, [column for columns in wide.values() for column in columns.values()])
        return _from_wide(raw, name, wide, path)
    if name is None or time is None or layout == "wide":
        raise ConfigError(
            f"{path} looks neither wide (columns such as ERK_0, ERK_1 … or ERK_2.5min) nor long (a column of ids and "
            "one of times) nor like a column a cell beside one of times; name them with --branch.id_column and "
            "--branch.time_column, or give --branch.layout"
        )
    return _from_long(raw, (name, time), channels, labels, path, faults)


def time_points(names: list[str]) -> tuple[int, int]:
    """How many columns are named by a time, and how many are numbered."""
    timed, decimal, numbered = (sum(map(len, _numbered(names, *how).values())) for how in WAYS)
    return max(timed, decimal), numbered


def is_long(path: Path, names: list[str], least: int) -> bool:
    """Whether a table has a column of ids that stand in at least so many rows on average, and one of times."""
    import pandas as pd

    header = pd.DataFrame(columns=names)
    name, time = _pick(header, None, IDS, "id"), _pick(header, None, TIMES, "time")
    if name is None or time is None:
        return False
    ids = tables.labels(path, [name])[name].dropna()
    return len(ids) >= least * max(1, ids.nunique())


def _read(path: Path, words: set[str]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table, columns in `words` (capitals aside) as they were written, and its faults by column."""
    if not path.is_file():
        raise ConfigError(
            f"no traces at {path}; expected HDF5 files or a folder of them, an extraction, CSV or Parquet"
        )
    table = tables.read(path, unsure=",")
    wanted = [str(name) for name in table.frame if str(name) in words or str(name).lower() in words]
    told = tables.labels(path, wanted)
    return table.frame.assign(**{name: told[name].where(told[name].notna(), np.nan) for name in told}), table.faults


def _refuse_faults(path: Path, faults: dict[str, str], columns: Iterable[str]) -> None:
    """ConfigError where a column that is read as numbers has another cell."""
    fault = next((faults[name] for name in columns if name in faults), None)
    if fault:
        raise ConfigError(f"{path}, {fault}")


def _is_clock(table: pd.DataFrame, time: str | None) -> bool:
    """Whether a column of times grows from row to row, beside at least two columns of numbers."""
    if time is None or table[time].dtype.kind not in "iuf" or len(table) < LEAST_TIMED:
        return False
    return bool((np.diff(table[time].to_numpy(float)) > 0).all()) and len(table.select_dtypes("number").columns) > 2


def _from_columns(
    table: pd.DataFrame, time: str | None, labels: tuple[str, ...], path: Path, faults: dict[str, str]
) -> TraceTable:
    """A column a trace, called as its column; `prefix` is the name without its number."""
    import pandas as pd

    numeric = [str(name) for name in table.select_dtypes("number")]
    cells = [name for name in numeric if name not in (time, csvtables.INDEX, *labels)]
    _refuse_faults(path, faults, faults)
    if not cells:
        raise ConfigError(f"{path} has no columns of numbers beside the time")
    rows = np.argsort(table[time].to_numpy(float), kind="stable") if time else np.arange(len(table))
    values = _numbers(table[cells], path)[rows].T
    prefix = [re.sub(r"[\W_]*\d+[\W_]*$", "", name) or name for name in cells]
    return TraceTable(pd.DataFrame({"id": cells, "prefix": prefix}), "id", values[:, None], (TRACE,))


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
    """The column that was given, or the first of the usual names there is, a unit behind it left aside."""
    if given is not None and given not in table:
        raise ConfigError(f"no column {given!r} for the {what}; columns: {', '.join(map(str, table.columns[:12]))} …")
    lower = {TIME_UNIT.sub("", str(name).lower()): str(name) for name in reversed(table.columns)}
    return given or next((lower[name] for name in usual if name in lower), None)


def _wide(table: pd.DataFrame, channels: tuple[str, ...]) -> dict[str, dict[float, str]]:
    """channel -> time -> column, of prefixes with enough numbers; only those asked for, where some are."""
    names = [str(column) for column in table.columns]
    columns = next(filter(None, (_numbered(names, *how) for how in WAYS)), {})
    missing = [name for name in channels if name not in columns]
    if columns and missing:
        raise ConfigError(f"no channel {missing[0]!r}; channels: {', '.join(columns)}")
    return {name: columns[name] for name in channels} if channels and columns else columns


def _by_unit(column: str) -> tuple[str, float] | None:
    match = TIMED.match(column)
    if not match:
        return None
    unit, negative = match[5].lower(), bool(match[2] and match[3])  # of ERK-5min the dash is no sign
    seconds = SECONDS["ms"] if unit == "ms" else SECONDS[unit[0]]
    return match[1], float(match[4]) * seconds * (-1 if negative else 1)


def _by_decimal(column: str) -> tuple[str, float] | None:
    match = DECIMAL.match(column)
    return (match[1], float(match[2])) if match else None


def _by_number(column: str) -> tuple[str, float] | None:
    match = NUMBERED.match(column)
    return (match[1], int(match[2])) if match else None


def _numbered(names: list[str], parsed: Parsed, least: int, fractions: bool) -> dict[str, dict[float, str]]:
    """channel -> time -> column for the channels with at least so many; `fractions`: some time must have one."""
    columns: dict[str, dict[float, str]] = {}
    for name in names:
        if (parts := parsed(name)) is not None:
            columns.setdefault(parts[0] or TRACE, {})[parts[1]] = name
    columns = {name: times for name, times in columns.items() if len(times) >= least}
    if fractions and all(float(time).is_integer() for times in columns.values() for time in times):
        return {}
    return columns


Parsed = Callable[[str], "tuple[str, float] | None"]
WAYS: tuple[tuple[Parsed, int, bool], ...] = (
    (_by_unit, LEAST_TIMED, False),
    (_by_decimal, LEAST_TIMED, True),
    (_by_number, LEAST, False),
)


def _from_wide(table: pd.DataFrame, name: str, wide: dict[str, dict[float, str]], path: Path) -> TraceTable:
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
    table: pd.DataFrame,
    key: tuple[str, str],
    channels: tuple[str, ...],
    labels: tuple[str, ...],
    path: Path,
    faults: dict[str, str],
) -> TraceTable:
    """Numbers that change within a trace are its channels, unless they are places or ids; the others are known of it.

    Rows of no trace (an empty id, or None as TrackMate writes it) are left out and counted.
    """
    import pandas as pd

    name, time = key
    table = _of_traces(table, name, path)
    measures = (fault for fault in faults if fault not in labels and not descriptors.is_descriptor(fault))
    _refuse_faults(path, faults, [time, *(channels or measures)])
    twice = table.duplicated([name, time])
    if twice.any():
        at = int(np.flatnonzero(twice)[0])
        trace, when, row = table[name].iloc[at], table[time].iloc[at], int(table.index[at])
        raise ConfigError(f"{tables.place(path, row)}: {trace} has the time {when} twice")
    codes, ids = pd.factorize(table[name].astype(str))
    varying = table.groupby(codes).nunique(dropna=True).max() > 1
    measured = list(channels) or _measured(table, varying, {*key, *labels})
    lost = [column for column in measured if column not in table]
    if lost or not measured:
        raise ConfigError(
            f"{path} has no channel {lost[0]!r}" if lost else f"{path} has no numbers that change with time"
        )
    when = _numbers(table[[time]], path)[:, 0] if table[time].dtype == object else table[time].to_numpy()
    grid = np.unique(when)
    longest = int(np.bincount(codes).max())
    if len(grid) > 4 * longest:
        raise ConfigError(f"{path}: {len(grid)} different times for traces of at most {longest}; put them on one grid")
    values = np.full((len(ids), len(measured), len(grid)), np.nan, np.float32)
    values[codes, :, np.searchsorted(grid, when)] = _numbers(table[measured], path)
    per_trace = table.loc[
        ~pd.Series(codes).duplicated().to_numpy(), [c for c in table.columns if not varying.get(c, False) or c == name]
    ]
    return TraceTable(
        per_trace.drop(columns=[c for c in (time,) if c in per_trace]).reset_index(drop=True),
        name,
        values,
        tuple(measured),
    )


def _of_traces(table: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    """The rows that belong to a trace."""
    nobody = (table[name].isna() | table[name].isin(MISSING)).to_numpy()
    if nobody.any():
        where = tables.lines(path, np.flatnonzero(nobody).tolist())
        say(f"trace: {int(nobody.sum())} rows belong to no {name} and are left out ({where})")
    return table[~nobody]


def _measured(table: pd.DataFrame, varying: pd.Series, known: set[str]) -> list[str]:
    """Columns of numbers that change within a trace and are neither places nor ids."""
    numeric = table.select_dtypes("number").columns
    candidates = [column for column in numeric if varying[column] and column not in known]
    passed = {*descriptors.axes(candidates), *filter(descriptors.is_descriptor, candidates)}
    if passed:
        names = csvtables.shorten(sorted(passed))
        say(f"trace: no channels, since they are places or ids: {names}; see branch.channels")
    return [column for column in candidates if column not in passed]
