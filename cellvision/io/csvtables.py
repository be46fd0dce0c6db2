"""The values of a CSV: columns of numbers, columns of text as they were written, and what is wrong with either."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError
from cellvision.io import csvrows
from cellvision.io.dialect import MISSING, Dialect, one_line
from cellvision.io.packed import is_packed, open_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

INDEX = "index"  # name of a first column without one: the row names that pandas and R write
EMPTY = ("",)  # what is missing where cells are kept as they were written
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


def read_csv(path: Path, dialect: Dialect, text: Collection[str] = ()) -> Table:
    """Block by block, so that only numbers and text columns are held. ConfigError names lines of another length."""
    import pandas as pd

    names, notes = header_names(path, dialect)
    as_written = {at for at, name in enumerate(names) if name in text}
    columns = _columns(path, dialect, len(names), as_written)
    unnamed = [at for at, name in enumerate(names) if not name]
    for at in unnamed:
        refuse_unnamed(path, at, not pd.isna(columns[at]).all())
    if unnamed:
        notes.append(f"{len(unnamed)} columns without name and values are left out")
    kept, twins = distinct(names, lambda at: columns[at], path)
    notes += _of_twins(twins)
    texts = [at for at in kept if columns[at].dtype == object and at not in as_written]
    faults = {names[at]: fault for at in texts if (fault := _fault(path, dialect, names[at], at, columns[at]))}
    for at in (at for at in texts if names[at] in faults):  # numbers with a fault, among which NA is a gap
        columns[at] = np.array([None if word in MISSING else word for word in columns[at]], dtype=object)
    frame = pd.DataFrame({names[at]: columns[at] for at in kept})
    return Table(frame, (*notes, *endless(frame)), faults, dialect)


def header_names(path: Path, dialect: Dialect) -> tuple[list[str], list[str]]:
    """The header's names, the row names' too, empty for a column without one, and notes. NoUsableInput without rows."""
    names = [name.strip() for name in csvrows.first_rows(path, dialect)[0]]
    notes = [f"read as {dialect.text()}"]
    if dialect.head > 1:
        notes.append(f"{dialect.head} rows are the header: names, and what stands above or below them")
    more = csvrows.surplus(path, dialect, len(names))
    names = [*([INDEX] if more == "names" else []), *names, *([""] if more == "tail" else [])]
    if more == "names" or (len(names) > 1 and names[0] in ("", "Unnamed: 0")):
        names[0] = INDEX
        notes.append(f"the first column has no name: taken as row names ({INDEX!r}), not as a feature")
    return names, notes


def distinct(names: list[str], cells: Callable[[int], NDArray], path: Path) -> tuple[list[int], list[str]]:
    """Columns with a name, the first of those that are the same in name and content, and the names that stood twice.

    cells: position -> its (n,) cells.

    ConfigError for columns of one name that differ.
    """
    first: dict[str, int] = {}
    kept, twins = [], []
    for at, name in enumerate(names):
        if not name:
            continue
        before = first.setdefault(name, at)
        if before == at:
            kept.append(at)
        elif _same(cells(before), cells(at)):
            twins.append(name)
        else:
            check_names([name for name in names if name], str(path))
    return kept, twins


def _same(one: NDArray, other: NDArray) -> bool:
    import pandas as pd

    return bool(pd.Series(one).equals(pd.Series(other)))


def _of_twins(twins: list[str]) -> list[str]:
    return [f"columns that stand twice with the same content are taken once: {shorten(twins)}"] if twins else []


def refuse_unnamed(path: Path, at: int, filled: bool) -> None:
    if filled:
        raise ConfigError(f"{path}: column {at + 1} has values but no name in the header; name it")


def _columns(path: Path, dialect: Dialect, width: int, as_written: Collection[int]) -> list[NDArray]:
    """Each column as float64 or int64, or as text where a cell is no number, or where it is wanted as written."""
    parts: dict[int, list[NDArray | None]] = {at: [] for at in range(width) if at not in as_written}
    for batch in record_batches(path, dialect, width, list(parts)):
        for blocks, column in zip(parts.values(), _numbers(batch, dialect), strict=True):
            blocks.append(column)
    texts = [at for at, blocks in parts.items() if any(block is None for block in blocks)]
    columns = texts_of(path, dialect, width, sorted({*texts, *as_written}))
    for at in as_written:
        columns[at] = np.array([np.nan if word is None else word for word in columns[at]], dtype=object)
    for at, blocks in parts.items():
        if at not in columns:
            columns[at] = _whole(np.concatenate([block for block in blocks if block is not None]))
            blocks.clear()
    return [columns[at] for at in range(width)]


def record_batches(
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
                    column_names=labels, skip_rows=dialect.skip, skip_rows_after_names=dialect.head,
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


def texts_of(path: Path, dialect: Dialect, width: int, wanted: list[int]) -> dict[int, NDArray]:
    """Column number -> text as it was written, None where a cell is empty: None, NA or null may be what a thing is."""
    texts: dict[int, list[Any]] = {at: [] for at in wanted}
    for batch in record_batches(path, dialect, width, wanted, EMPTY):
        for at, column in zip(wanted, batch.columns, strict=True):
            texts[at].extend(column.to_pylist())
    return {at: np.array(values, dtype=object) for at, values in texts.items()}


def _fault(path: Path, dialect: Dialect, name: str, at: int, values: NDArray) -> str | None:
    """The first cell that is no number in a column where most are."""
    number = re.compile(dialect.pattern())
    present = [str(value).strip() for value in values if value not in (None, *MISSING)]
    good = sum(bool(number.match(text)) for text in present)
    if not present or good <= MOSTLY * len(present):
        return None
    for line, record in csvrows.body(path, dialect):
        cell = record[at].strip()
        if cell not in MISSING and not number.match(cell):
            return f"line {line}, column {name!r}: {cell!r} is no number, but {good} of {len(present)} cells are"
    return None


def endless(frame: pd.DataFrame) -> list[str]:
    """A note on values beyond any number: `inf`, or 1e999."""
    numeric = frame.select_dtypes("float")
    count = np.isinf(numeric.to_numpy(np.float64)).sum(0)
    if not count.any():
        return []
    names = [str(name) for name in numeric.columns[count > 0]]
    return [f"{count.sum()} values are infinite and count as missing, in {shorten(names)}"]


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


def shorten(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
