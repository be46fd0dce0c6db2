"""The one table reader: CSV of any dialect, Parquet or h5ad -> a pandas table and notes. Nothing pickled is opened.

What a CSV means - encoding, separator, decimal mark, gzipped or not - is found from its bytes and said in the notes; a
row that is too short or too long, and a cell that is no number among numbers, are named by line and column. Rows are
never dropped. Names and labels can be kept as they were written: `text`, or `read_text` for all columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.io import csvrows, h5ad, hdf5
from cellvision.io.dialect import Dialect, one_line, sniff
from cellvision.io.packed import GZIP, is_packed, open_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

INDEX = "index"  # name of a first column without one: the row names that pandas and R write
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
EMPTY = ("",)  # what is missing where cells are kept as they were written
H5_SUFFIXES = (".h5", ".hdf5", ".hdf")  # pandas keeps pickled objects in HDF5
INSTEAD = "save the table as CSV, Parquet or h5ad"
DENSE_CELLS = 1 << 28  # values of an h5ad that are held as a table
BLOCK = 1 << 24  # bytes parsed at once
CELL = 200  # bytes, the most a cell has on average
MOSTLY = 0.5  # share of numbers from which on another text in a column is a fault
SHOWN = 5  # names or faults in one message


@dataclass(frozen=True)
class Table:
    """A table; `faults`: column of numbers that holds other text -> its first such cell; `notes`: for the person."""

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)
    dialect: Dialect | None = None  # of a CSV


def read(
    path: Path,
    separator: str | None = None,
    decimal: str | None = None,
    text: Collection[str] | Literal["all"] = (),
) -> Table:
    """CSV, Parquet or h5ad by content; columns named in `text` as they were written, NaN where a cell is empty.

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
        table = read_csv(path, sniff(path, separator, decimal, text), text)
    check_names([str(name) for name in table.frame.columns], str(path))
    if table.frame.empty:
        raise NoUsableInput(f"{path} holds a header but no rows")
    return table


def read_text(path: Path, needed: Sequence[str] = ()) -> pd.DataFrame:
    """All columns as they were written, NaN where a cell is empty. ConfigError where a needed column is not there."""
    frame = read(path, text="all").frame
    need(frame, needed, path)
    return frame


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
        words = [np.nan if pd.isna(value) else str(value) for value in frame[name]]
        frame = frame.assign(**{str(name): pd.Series(words, frame.index, dtype=object)})
    return Table(frame, table.notes)


def check_names(names: list[str], where: str) -> None:
    """ConfigError for names that stand twice: features are aligned by name."""
    place: dict[str, list[int]] = {}
    for number, name in enumerate(names, 1):
        place.setdefault(name, []).append(number)
    repeated = {name: numbers for name, numbers in place.items() if len(numbers) > 1}
    if repeated:
        name, numbers = next(iter(repeated.items()))
        columns = ", ".join(map(str, numbers[:SHOWN]))
        raise ConfigError(
            f"{where}: {len(repeated)} names stand more than once, such as {name!r} (columns {columns}); rename them"
        )


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
    line, _ = next(itertools.islice(csvrows.every(path, sniff(path, decimal=".")), row + 1, None))
    return f"{path}, line {line}"


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


# -- CSV ----------------------------------------------------------------------------------------------------------


def read_csv(path: Path, dialect: Dialect, text: Collection[str] = ()) -> Table:
    """Block by block, so that only numbers and text columns are held. ConfigError names lines of another length."""
    import pandas as pd

    names, notes = _names(path, dialect)
    as_written = {at for at, name in enumerate(names) if name in text}
    columns = _columns(path, dialect, len(names), as_written)
    unnamed = [at for at, name in enumerate(names) if not name]
    for at in unnamed:
        _refuse_unnamed(path, at, not pd.isna(columns[at]).all())
    if unnamed:
        notes.append(f"{len(unnamed)} columns without name and values are left out")
    kept = [at for at, name in enumerate(names) if name]
    frame = pd.DataFrame({names[at]: columns[at] for at in kept})
    texts = [at for at in kept if columns[at].dtype == object and at not in as_written]
    faults = {names[at]: fault for at in texts if (fault := _fault(path, dialect, names[at], at, columns[at]))}
    return Table(frame, (*notes, *_endless(frame)), faults, dialect)


def text_portions(path: Path, missing: Sequence[str] = EMPTY) -> Iterator[pd.DataFrame]:
    """A CSV or Parquet table in portions, every cell as it was written, NaN where it is one of `missing`."""
    if kind_of(path) != "csv":
        frame = read(path, text="all").frame
        yield frame.where(~frame.isin(missing), np.nan)
        return
    dialect = sniff(path, decimal=".")
    names, _ = _names(path, dialect)
    for batch in _blocks(path, dialect, len(names), missing=missing):
        for at in (at for at, name in enumerate(names) if not name):
            _refuse_unnamed(path, at, batch.column(at).null_count < batch.num_rows)
        portion = batch.to_pandas().set_axis(names, axis=1)
        yield portion.drop(columns=[name for name in names if not name][:1]).astype(object).fillna(np.nan)


def _joined(portions: Iterator[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(portions, ignore_index=True)


def _names(path: Path, dialect: Dialect) -> tuple[list[str], list[str]]:
    """The header's names, the row names' too, and notes. NoUsableInput without rows, ConfigError for twins."""
    names = [name.strip() for name in csvrows.first_rows(path, dialect)[0]]
    notes = [f"read as {dialect.text()}"]
    if len(names) > 1 and names[0] in ("", "Unnamed: 0"):
        names[0] = INDEX
        notes.append(f"the first column has no name: taken as row names ({INDEX!r}), not as a feature")
    check_names([name for name in names if name], str(path))
    return names, notes


def _refuse_unnamed(path: Path, at: int, filled: bool) -> None:
    if filled:
        raise ConfigError(f"{path}: column {at + 1} has values but no name in the header; name it")


def _columns(path: Path, dialect: Dialect, width: int, as_written: Collection[int]) -> list[NDArray]:
    """Each column as float64 or int64, or as text where a cell is no number, or where it is wanted as written."""
    parts: dict[int, list[NDArray | None]] = {at: [] for at in range(width) if at not in as_written}
    for batch in _blocks(path, dialect, width, list(parts)):
        for blocks, column in zip(parts.values(), _numbers(batch, dialect), strict=True):
            blocks.append(column)
    texts = [at for at, blocks in parts.items() if any(block is None for block in blocks)]
    columns = _texts(path, dialect, width, texts)
    for at, words in _texts(path, dialect, width, sorted(as_written), EMPTY).items():
        columns[at] = np.array([np.nan if word is None else word for word in words], dtype=object)
    for at, blocks in parts.items():
        if at not in columns:
            columns[at] = _whole(np.concatenate([block for block in blocks if block is not None]))
            blocks.clear()
    return [columns[at] for at in range(width)]


def _blocks(
    path: Path, dialect: Dialect, width: int, only: list[int] | None = None, missing: Sequence[str] = MISSING
) -> Iterator[pa.RecordBatch]:
    """Record batches of text columns; `only` are the columns wanted."""
    if only == []:
        return
    import pyarrow as pa
    import pyarrow.csv as arrow

    labels = [str(number) for number in range(width)]
    wanted = labels if only is None else [labels[at] for at in only]
    size = max(BLOCK, CELL * width)  # a row has to fit
    try:
        with open_bytes(path) if is_packed(path) else pa.OSFile(str(path)) as handle:  # see files.read_parquet
            yield from arrow.open_csv(
                handle,
                arrow.ReadOptions(
                    use_threads=False, block_size=size, encoding=dialect.encoding.removesuffix("-sig"),
                    column_names=labels, skip_rows=dialect.skip, skip_rows_after_names=1,
                ),
                arrow.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
                arrow.ConvertOptions(
                    column_types=dict.fromkeys(labels, pa.string()), include_columns=wanted, strings_can_be_null=True,
                    null_values=list(missing),
                ),
            )  # fmt: skip
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ConfigError(csvrows.ragged(path, dialect, width) or f"cannot read {path}: {one_line(error)}") from None


def _numbers(batch: pa.RecordBatch, dialect: Dialect) -> list[NDArray[np.float64] | None]:
    """Each column's cells as float64, NaN where they are missing; None for a column with a cell that is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_trim_whitespace(pa.concat_arrays(batch.columns))
    text = pc.if_else(pc.is_in(text, pa.array(MISSING)), None, text)
    good = pc.match_substring_regex(text, dialect.pattern())
    text = pc.replace_substring_regex(pc.if_else(good, text, None), f"[{re.escape(dialect.group)}]", "")
    if dialect.decimal != ".":
        text = pc.replace_substring(text, dialect.decimal, ".")
    shape = batch.num_columns, batch.num_rows
    values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False).reshape(shape)
    other = (~good.fill_null(True).to_numpy(zero_copy_only=False)).reshape(shape).any(1)
    return [None if wrong else column.copy() for wrong, column in zip(other, values, strict=True)]


def _whole(values: NDArray[np.float64]) -> NDArray:
    """Whole numbers as int64, so that a label 3 is not called 3.0."""
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    return whole if np.array_equal(whole, values) and np.abs(values).max(initial=0) < 2**53 else values


def _texts(
    path: Path, dialect: Dialect, width: int, wanted: list[int], missing: Sequence[str] = MISSING
) -> dict[int, NDArray]:
    """Column number -> text with None where it is missing."""
    texts: dict[int, list[Any]] = {at: [] for at in wanted}
    for batch in _blocks(path, dialect, width, wanted, missing):
        for at, column in zip(wanted, batch.columns, strict=True):
            texts[at].extend(column.to_pylist())
    return {at: np.array(values, dtype=object) for at, values in texts.items()}


def _fault(path: Path, dialect: Dialect, name: str, at: int, values: NDArray) -> str | None:
    """The first cell that is no number in a column where most are."""
    number = re.compile(dialect.pattern())
    present = [str(value).strip() for value in values if value is not None]
    good = sum(bool(number.match(text)) for text in present)
    if not present or good <= MOSTLY * len(present):
        return None
    for line, record in itertools.islice(csvrows.every(path, dialect), 1, None):
        cell = record[at].strip()
        if cell not in MISSING and not number.match(cell):
            return f"line {line}, column {name!r}: {cell!r} is no number, but {good} of {len(present)} cells are"
    return None


def _endless(frame: pd.DataFrame) -> list[str]:
    """A note on values beyond any number: `inf`, or 1e999."""
    numeric = frame.select_dtypes("float")
    count = np.isinf(numeric.to_numpy(np.float64)).sum(0)
    if not count.any():
        return []
    names = [str(name) for name in numeric.columns[count > 0]]
    return [f"{count.sum()} values are infinite and count as missing, in {shorten(names)}"]


# -- Parquet and h5ad ---------------------------------------------------------------------------------------------


def read_parquet(path: Path) -> Table:
    """A flat Parquet file; nested columns come as they are and are no features."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from None
    check_names(table.column_names, str(path))
    frame = table.to_pandas(ignore_metadata=True)
    frame = frame.rename(columns={"__index_level_0__": INDEX, "": INDEX})
    return Table(frame, tuple(_endless(frame)))


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
    return Table(frame, (f"h5ad: {len(var)} variables, {len(obs.columns)} columns of obs", *_endless(frame)))


def shorten(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
