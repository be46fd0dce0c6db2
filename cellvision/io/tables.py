"""The one table reader: CSV of any dialect, Parquet or h5ad -> a pandas table and notes. Nothing pickled is opened.

What a CSV means - encoding, separator, decimal mark, gzipped or not - is found from its bytes and said in the notes; a
row that is too short or too long, and a cell that is no number among numbers, are named by line and column. Rows are
never dropped. Names and labels can be kept as they were written: `text`, or `read_text` for all columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.io import csvrows, csvtables, h5ad, hdf5
from cellvision.io.csvtables import EMPTY, INDEX, SHOWN, Table, check_names
from cellvision.io.dialect import MISSING, one_line, sniff
from cellvision.io.packed import GZIP, is_packed, open_bytes

if TYPE_CHECKING:
    import pandas as pd

PLAIN = re.compile(r"[+-]?(?:0|[1-9]\d{0,14})(?:[.,]\d+)?")  # neither 007 nor 1e5
QUANTITY = 20  # different numbers from which on a column measures something, and NA is a gap in it
H5_SUFFIXES = (".h5", ".hdf5", ".hdf")  # pandas keeps pickled objects in HDF5
INSTEAD = "save the table as CSV, Parquet or h5ad"
DENSE_CELLS = 1 << 28  # values of an h5ad that are held as a table


def read(
    path: Path,
    separator: str | None = None,
    decimal: str | None = None,
    text: Collection[str] | Literal["all"] = (),
    unsure: str | None = None,
) -> Table:
    """CSV, Parquet or h5ad by content; columns named in `text` as they were written, NaN where a cell is empty.

    `unsure`: the decimal mark where 1,234 alone leaves it open.

    UnsafeInput for files that may hold code, ConfigError for unreadable ones, NoUsableInput for those without rows.
    """
    kind = kind_of(path)
    if kind == "parquet":
        table = _worded(read_parquet(path), text)
    elif kind == "h5ad":
        table = _worded(read_h5ad(path), text)
    elif text == "all":
        table = Table(_joined(text_portions(path)))
    else:
        table = csvtables.read_csv(path, sniff(path, separator, decimal, text, unsure), text)
    check_names([str(name) for name in table.frame.columns], str(path))
    if table.frame.empty:
        raise NoUsableInput(f"{path} holds a header but no rows")
    return table


def read_text(path: Path, needed: Sequence[str] = ()) -> pd.DataFrame:
    """All columns as they were written, NaN where a cell is empty. ConfigError where a needed column is not there."""
    frame = read(path, text="all").frame
    need(frame, needed, path)
    return frame


def names(path: Path) -> list[str]:
    """The columns of a CSV; empty for what is none or has no rows."""
    try:
        return csvtables.header_names(path, sniff(path, decimal="."))[0] if kind_of(path) == "csv" else []
    except (ConfigError, NoUsableInput, UnsafeInput):
        return []


def parquet_names(path: Path) -> list[str]:
    """The columns of a Parquet file. ConfigError where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return list(map(str, parquet.read_schema(path).names))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from None


def need(frame: pd.DataFrame, needed: Sequence[str], path: Path) -> None:
    """ConfigError names the columns that are missing and those that are there."""
    missing = [name for name in needed if name not in frame]
    if missing:
        raise ConfigError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame))}")


def kind_of(path: Path) -> Literal["csv", "parquet", "h5ad"]:
    """What the content is. ConfigError, UnsafeInput or NoUsableInput for what is no table."""
    if not path.is_file():
        raise ConfigError(f"no table at {path}; expected a CSV, Parquet or h5ad file")
    files.refuse_pickled(path, INSTEAD)
    packed = is_packed(path)
    with open_bytes(path) as handle:
        head = handle.read(8)
    if files.PICKLE_HEAD.match(head):
        raise UnsafeInput(f"{path} may hold code (a pickle) and is never loaded; {INSTEAD}")
    if not head:
        raise NoUsableInput(f"{path} is empty")
    containers = {
        b"PK": "an Excel workbook or a zip archive",
        b"\xd0\xcf": "an old Excel workbook",
        GZIP: "packed twice",
        b"BZh": "packed by bzip2",
        b"\xfd7zXZ": "packed by xz",
        b"(\xb5/\xfd": "packed by zstd",
        b"%PDF": "a PDF",
    }
    for magic, what in containers.items():
        if head.startswith(magic):
            raise ConfigError(f"{path} is {what}, no table; save or unpack it as CSV or Parquet")
    if not head.startswith((b"PAR1", b"\x89HDF")):
        if path.suffix.lower() in H5_SUFFIXES:
            raise UnsafeInput(f"{path} may hold code (a pickle) and is never loaded; {INSTEAD}")
        return "csv"
    if packed:
        raise ConfigError(f"{path} is packed; unpack it, since only text is read packed")
    return "parquet" if head.startswith(b"PAR1") else "h5ad"


def _worded(table: Table, text: Collection[str] | Literal["all"]) -> Table:
    """Columns of text from files that have types."""
    import pandas as pd

    frame = table.frame
    for name in frame.columns if text == "all" else [name for name in frame if name in text]:
        cells = pd.Series(words(frame[name]), frame.index, dtype=object)
        frame = frame.assign(**{str(name): cells.where(cells.notna(), np.nan)})
    return Table(frame, table.notes)


def words(column: pd.Series) -> NDArray:
    """(n,) text, whole numbers without a point, None where it is missing."""
    import pandas as pd

    present = column.notna().to_numpy()
    values = column.astype(object).to_numpy()
    whole = pd.api.types.is_float_dtype(column)
    out = np.full(len(values), None, dtype=object)
    out[present] = [str(int(value)) if whole and float(value).is_integer() else str(value) for value in values[present]]
    return out


def labels(path: Path, names: Collection[str], separator: str | None = None) -> pd.DataFrame:
    """Columns that say what a row is, as text: None, NA, 001, 1e5 and True as they were written, None where empty.

    A column of plain numbers is named by number, so that 1 and 1.0 are one label, and what is missing among more than
    QUANTITY different numbers is missing.
    """
    import pandas as pd

    if kind_of(path) != "csv":
        frame = read(path).frame
        return pd.DataFrame({name: pd.Series(words(frame[name]), dtype=object) for name in frame if name in names})
    dialect = sniff(path, separator, ".")
    header, _ = csvtables.header_names(path, dialect)
    wanted = {name: at for at, name in reversed([*enumerate(header)]) if name in names}
    cells = csvtables.texts_of(path, dialect, len(header), sorted(wanted.values()))
    return pd.DataFrame({name: pd.Series(_label(cells[at]), dtype=object) for name, at in wanted.items()})


def _label(cells: NDArray) -> list[str | None]:
    """(n,) text of one column -> labels."""
    rest = {cell.strip() for cell in cells if cell is not None} - {*MISSING}
    numbers = {cell: float(cell.replace(",", ".")) for cell in rest if PLAIN.fullmatch(cell)}
    if not rest or len(numbers) < len(rest):
        return [cell if cell is not None and cell.strip() else None for cell in cells]
    name_of = {cell: str(int(value)) if value.is_integer() else str(value) for cell, value in numbers.items()}
    is_quantity = len(set(name_of.values())) > QUANTITY
    said = ((cell or "").strip() for cell in cells)
    return [name_of.get(cell, None if is_quantity or not cell else cell) for cell in said]


def lines(path: Path, rows: Sequence[int]) -> str:
    """For a message: the lines on which the first of these rows, counted from 0, begin."""
    shown, more = set(rows[:SHOWN]), f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    if kind_of(path) != "csv":
        return f"rows {', '.join(str(row + 1) for row in rows[:SHOWN])}{more}"
    body = enumerate(csvrows.body(path, sniff(path, decimal=".")))
    named = [str(line) for row, (line, _) in itertools.islice(body, max(shown) + 1) if row in shown]
    return f"{'line' if len(rows) == 1 else 'lines'} {', '.join(named)}{more}"


# -- the dialect --------------------------------------------------------------------------------------------------


def numeric(table: Table, columns: list[str], path: Path) -> pd.DataFrame:
    """Columns that have to be numbers, read by the dialect. ConfigError names the first cell that is none, or empty."""
    frame = table.frame[columns]
    for name in columns:
        cells = frame[name]
        bad = cells.isna()
        if table.dialect is not None and cells.dtype.kind not in "iufb":
            bad |= ~cells.astype(str).str.strip().str.match(table.dialect.pattern())
        if bad.any():
            row = int(bad.to_numpy().argmax())
            cell = "an empty cell" if cells.isna().iloc[row] else repr(cells.iloc[row])
            raise ConfigError(f"{place(path, row)}, column {name!r}: {cell} is no number")
    return as_numbers(frame, path)


def place(path: Path, row: int) -> str:
    """For a message: the file and the line on which its row, counted from 0, begins."""
    if kind_of(path) != "csv":
        return f"{path}, row {row + 1}"
    line, _ = next(itertools.islice(csvrows.body(path, sniff(path, decimal=".")), row, None))
    return f"{path}, line {line}"


def refuse(path: Path, wrong: pd.Series, why: str) -> None:
    """ConfigError with the line of the first of (n,) rows that is wrong."""
    if wrong.any():
        raise ConfigError(f"{place(path, int(wrong.to_numpy().argmax()))}{why}")


def as_numbers(table: pd.DataFrame, path: Path, first: int = 0) -> pd.DataFrame:
    """Columns of text as numbers; ConfigError names the first cell that is none. `first`: number of the first row."""
    import pandas as pd

    for column in table.columns[[kind.kind not in "iufb" for kind in table.dtypes]]:
        values = pd.to_numeric(table[column], errors="coerce")
        bad = (values.isna() & table[column].notna()).to_numpy()
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            cell = table[column].iloc[row]
            raise ConfigError(f"{place(path, row + first)}, column {column!r}: {cell!r} is no number")
        table = table.assign(**{str(column): values})
    return table


def text_portions(path: Path) -> Iterator[pd.DataFrame]:
    """A CSV or Parquet table in portions, every cell as it was written, NaN where it is empty."""
    if kind_of(path) != "csv":
        frame = read(path, text="all").frame
        yield frame.where(~frame.isin(EMPTY), np.nan)
        return
    dialect = sniff(path, decimal=".")
    names, _ = csvtables.header_names(path, dialect)
    for batch in csvtables.record_batches(path, dialect, len(names), missing=EMPTY):
        for at in (at for at, name in enumerate(names) if not name):
            csvtables.refuse_unnamed(path, at, batch.column(at).null_count < batch.num_rows)
        kept, _ = csvtables.distinct(names, lambda at: np.array(batch.column(at).to_pylist(), object), path)  # noqa: B023
        yield batch.select(kept).to_pandas().set_axis([names[at] for at in kept], axis=1).astype(object).fillna(np.nan)


def _joined(portions: Iterator[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(portions, ignore_index=True)


# -- Parquet and h5ad ---------------------------------------------------------------------------------------------


def read_parquet(path: Path) -> Table:
    """A flat Parquet file; nested columns come as they are and are no features."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path).read()
        check_names(table.column_names, str(path))
        frame = table.replace_schema_metadata().to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from None
    frame = frame.rename(columns={"__index_level_0__": INDEX, "": INDEX})
    return Table(frame, tuple(csvtables.endless(frame)))


def read_h5ad(path: Path) -> Table:
    """X beside obs, audited first. Variables are columns; layers, raw and obsm are not read."""
    import pandas as pd

    if path.suffix.lower() != ".h5ad":
        raise UnsafeInput(f"{path} is HDF5 and may hold pickled objects; {INSTEAD}")
    with hdf5.open_h5(path) as file:
        missing = [name for name in ("X", "obs", "var") if name not in file]
        if missing:
            raise ConfigError(f"{path} is no h5ad file: it has no {', '.join(missing)}")
        obs, var = h5ad.frame(file, "obs"), h5ad.frame(file, "var")
        if len(obs) * len(var) > DENSE_CELLS:
            raise ConfigError(f"{path} has {len(obs)} x {len(var)} values; the rna branch reads tables of that size")
        h5ad.layout(file, "X").check(len(obs), len(var))
        values = h5ad.whole(file, "X")
    dense = values.toarray() if hasattr(values, "toarray") else values
    frame = pd.concat([obs, pd.DataFrame(dense, obs.index, [str(name) for name in var.index])], axis=1)
    frame = frame.rename_axis(INDEX).reset_index() if INDEX not in frame else frame.reset_index(drop=True)
    return Table(frame, (f"h5ad: {len(var)} variables, {len(obs.columns)} columns of obs", *csvtables.endless(frame)))
