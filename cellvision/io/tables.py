"""The one table reader: CSV of any dialect, Parquet or h5ad -> a pandas table and notes. Nothing pickled is opened.

What a CSV means - encoding, separator, decimal mark - is found from its bytes and said in the notes; a row that is too
short or too long, and a cell that is no number among numbers, are named by line and column. Rows are never dropped.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.io.dialect import Dialect, one_line, open_text, sniff

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

INDEX = "index"  # name of a first column without one: the row names that pandas and R write
MISSING = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
PICKLED = files.PICKLED | {".h5", ".hdf5", ".hdf"}  # pandas keeps pickled objects in HDF5
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


def read(path: Path, separator: str | None = None, decimal: str | None = None) -> Table:
    """CSV, Parquet or h5ad by content. UnsafeInput for files that may hold code, ConfigError for unreadable ones."""
    if not path.is_file():
        raise ConfigError(f"no table at {path}; the tabular branch reads one CSV, Parquet or h5ad file")
    with path.open("rb") as handle:
        head = handle.read(8)
    _refuse(path, head)
    if head.startswith(b"PAR1"):
        table = read_parquet(path)
    elif head.startswith(b"\x89HDF"):
        table = read_h5ad(path)
    else:
        table = read_csv(path, sniff(path, separator, decimal))
    check_names([str(name) for name in table.frame.columns], str(path))
    if table.frame.empty:
        raise NoUsableInput(f"{path} holds a header but no rows")
    return table


def _refuse(path: Path, head: bytes) -> None:
    if path.suffix.lower() in PICKLED or re.match(rb"\x80[\x02-\x05]", head):
        raise UnsafeInput(
            f"{path} may hold code (a pickle) and is never loaded; save the table as CSV, Parquet or h5ad"
        )
    if not head:
        raise NoUsableInput(f"{path} is empty")
    packed = {
        b"PK": "an Excel workbook or a zip archive",
        b"\x1f\x8b": "compressed",
        b"\xd0\xcf": "an old Excel workbook",
    }
    for magic, what in packed.items():
        if head.startswith(magic):
            raise ConfigError(f"{path} is {what}, no table; save or unpack it as CSV or Parquet")


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


def header(path: Path, dialect: Dialect) -> list[str]:
    """The names in the first line."""
    return next(_rows(path, dialect))[1]


def as_numbers(table: pd.DataFrame, path: Path, line: int = 2) -> pd.DataFrame:
    """Columns of text as numbers; ConfigError names the first cell that is none. `line` is that of the first row."""
    import pandas as pd

    for column in table.columns[[kind.kind not in "iufb" for kind in table.dtypes]]:
        made = pd.to_numeric(table[column], errors="coerce")
        bad = (made.isna() & table[column].notna()).to_numpy()
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ConfigError(f"{path}, line {row + line}, column {column!r}: {table[column].iloc[row]!r} is no number")
        table = table.assign(**{str(column): made})
    return table


# -- CSV ----------------------------------------------------------------------------------------------------------


def read_csv(path: Path, dialect: Dialect) -> Table:
    """Block by block, so that only numbers and text columns are held. ConfigError names lines of another length."""
    import pandas as pd

    header, *rows = itertools.islice(_rows(path, dialect), 2)
    if not rows:
        raise NoUsableInput(f"{path} holds a header but no rows")
    names = [name.strip() for name in header[1]]
    notes = [f"read as {dialect.text()}"]
    if len(names) > 1 and names[0] in ("", "Unnamed: 0"):
        names[0] = INDEX
        notes.append(f"the first column has no name: taken as row names ({INDEX!r}), not as a feature")
    columns = _columns(path, dialect, len(names))
    unnamed = [at for at, name in enumerate(names) if not name]
    for at in unnamed:
        if not pd.isna(columns[at]).all():
            raise ConfigError(f"{path}: column {at + 1} has values but no name in the header; name it")
    if unnamed:
        notes.append(f"{len(unnamed)} columns without name and values are left out")
    kept = [at for at, name in enumerate(names) if name]
    check_names([names[at] for at in kept], str(path))
    frame = pd.DataFrame({names[at]: columns[at] for at in kept})
    texts = [at for at in kept if columns[at].dtype == object]
    faults = {names[at]: fault for at in texts if (fault := _fault(path, dialect, names[at], at, columns[at]))}
    return Table(frame, (*notes, *_endless(frame)), faults)


def _columns(path: Path, dialect: Dialect, width: int) -> list[NDArray]:
    """Each column as float64 or int64, or as text where a cell is no number."""
    parts: list[list[NDArray | None]] = [[] for _ in range(width)]
    for batch in _blocks(path, dialect, width):
        for blocks, column in zip(parts, _numbers(batch, dialect), strict=True):
            blocks.append(column)
    texts = [at for at, blocks in enumerate(parts) if any(block is None for block in blocks)]
    found = _texts(path, dialect, width, texts)
    for at, blocks in enumerate(parts):
        if at not in found:
            found[at] = _whole(np.concatenate([block for block in blocks if block is not None]))
            blocks.clear()
    return [found[at] for at in range(width)]


def _rows(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of the header and every row, slowly: for the header and for messages."""
    with open_text(path, dialect.encoding) as handle:
        for _ in range(dialect.skip):
            handle.readline()
        reader = csv.reader(handle, delimiter=dialect.separator)
        begun = dialect.skip
        try:
            for record in reader:
                if record:
                    yield begun + 1, record
                begun = dialect.skip + reader.line_num
        except csv.Error as error:
            raise ConfigError(f"{path}, line {begun + 1}: {error}") from None


def _blocks(path: Path, dialect: Dialect, width: int, only: list[int] | None = None) -> Iterator[pa.RecordBatch]:
    """Record batches of text columns; `only` are the columns wanted."""
    import pyarrow as pa
    import pyarrow.csv as arrow

    labels = [str(number) for number in range(width)]
    wanted = labels if only is None else [labels[at] for at in only]
    size = max(BLOCK, CELL * width)  # a row has to fit
    try:
        with path.open("rb") as handle:
            yield from arrow.open_csv(
                handle,
                arrow.ReadOptions(
                    use_threads=False, block_size=size, encoding=dialect.encoding.removesuffix("-sig"),
                    column_names=labels, skip_rows=dialect.skip, skip_rows_after_names=1,
                ),
                arrow.ParseOptions(delimiter=dialect.separator, newlines_in_values=True),
                arrow.ConvertOptions(
                    column_types=dict.fromkeys(labels, pa.string()), include_columns=wanted, strings_can_be_null=True,
                    null_values=list(MISSING),
                ),
            )  # fmt: skip
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ConfigError(ragged(path, dialect, width) or f"cannot read {path}: {one_line(error)}") from None


def ragged(path: Path, dialect: Dialect, width: int) -> str | None:
    """The first lines whose number of fields is not the header's."""
    other = (f"line {line} has {len(record)}" for line, record in _rows(path, dialect) if len(record) != width)
    found = list(itertools.islice(other, SHOWN + 1))
    more = ", and more" if len(found) > SHOWN else ""
    return f"{path}: the header has {width} fields, but {', '.join(found[:SHOWN])}{more}" if found else None


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


def _texts(path: Path, dialect: Dialect, width: int, wanted: list[int]) -> dict[int, NDArray]:
    """Column number -> text with None where it is missing."""
    found: dict[int, list[Any]] = {at: [] for at in wanted}
    for batch in _blocks(path, dialect, width, wanted) if wanted else ():
        for at, column in zip(wanted, batch.columns, strict=True):
            found[at].extend(column.to_pylist())
    return {at: np.array(values, dtype=object) for at, values in found.items()}


def _fault(path: Path, dialect: Dialect, name: str, at: int, values: NDArray) -> str | None:
    """The first cell that is no number in a column where most are."""
    number = re.compile(dialect.pattern())
    known = [str(value).strip() for value in values if value is not None]
    good = sum(bool(number.match(text)) for text in known)
    if not known or good <= MOSTLY * len(known):
        return None
    for line, record in itertools.islice(_rows(path, dialect), 1, None):
        cell = record[at].strip()
        if cell not in MISSING and not number.match(cell):
            return f"line {line}, column {name!r}: {cell!r} is no number, but {good} of {len(known)} cells are"
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
    from anndata.io import read_elem

    from cellvision.io import hdf5

    if path.suffix.lower() != ".h5ad":
        raise UnsafeInput(f"{path} is HDF5 and may hold pickled objects; save the table as CSV, Parquet or h5ad")
    with hdf5.open_h5(path) as file:
        missing = [name for name in ("X", "obs", "var") if name not in file]
        if missing:
            raise ConfigError(f"{path} is no h5ad file: it has no {', '.join(missing)}")
        obs, var = read_elem(file["obs"]), read_elem(file["var"])
        if len(obs) * len(var) > DENSE_CELLS:
            raise ConfigError(f"{path} has {len(obs)} x {len(var)} values; the rna branch reads tables of that size")
        values = read_elem(file["X"])
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    if dense.shape != (len(obs), len(var)):
        raise ConfigError(f"{path}: X is {dense.shape}, but obs and var have {len(obs)} and {len(var)} rows")
    frame = pd.concat([obs, pd.DataFrame(dense, obs.index, [str(name) for name in var.index])], axis=1)
    frame = frame.rename_axis(INDEX).reset_index() if INDEX not in frame else frame.reset_index(drop=True)
    return Table(frame, (f"h5ad: {len(var)} variables, {len(obs.columns)} columns of obs", *_endless(frame)))


def shorten(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
