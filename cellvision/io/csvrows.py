"""The rows of a CSV as fields of text, slowly: for headers, small files, and the lines that messages name."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import headers
from cellvision.io.dialect import SAMPLE_ROWS, Dialect, find_encoding
from cellvision.io.packed import open_text

SHOWN = 5  # faults in one message


def every(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of the header and every row."""
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


def body(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, fields) of every row below the header."""
    return itertools.islice(every(path, dialect), dialect.head, None)


def header(path: Path, dialect: Dialect) -> list[str]:
    """The names of the columns, as they were written."""
    records = [record for _, record in itertools.islice(every(path, dialect), dialect.names)]
    return headers.joined(*records) if dialect.names > 1 else records[0]


def first_rows(path: Path, dialect: Dialect) -> tuple[list[str], list[str]]:
    """The names of the columns, and the fields of the first row. NoUsableInput without rows."""
    row = next(body(path, dialect), None)
    if row is None:
        raise NoUsableInput(f"{path} holds a header but no rows")
    return header(path, dialect), row[1]


def surplus(path: Path, dialect: Dialect, width: int) -> str:
    """`names` where each of the first rows begins with a name that the header lacks, as R writes it.

    `tail` where each ends with a separator and the header does not; else nothing.
    """
    rows = [record for _, record in itertools.islice(body(path, dialect), SAMPLE_ROWS)]
    if width < 2 or any(len(record) != width + 1 for record in rows):
        return ""
    if all(not record[-1].strip() for record in rows):
        return "tail"
    return "names" if len({record[0] for record in rows}) == len(rows) else ""


def ragged(path: Path, dialect: Dialect, width: int) -> str | None:
    """The first lines whose number of fields is not the header's."""
    other = (f"line {line} has {len(record)}" for line, record in body(path, dialect) if len(record) != width)
    lines = list(itertools.islice(other, SHOWN + 1))
    more = ", and more" if len(lines) > SHOWN else ""
    return f"{path}: the header has {width} fields, but {', '.join(lines[:SHOWN])}{more}" if lines else None


def refuse_ragged(path: Path, dialect: Dialect, width: int) -> None:
    """ConfigError where `ragged` finds a row."""
    fault = ragged(path, dialect, width)
    if fault:
        raise ConfigError(fault)


def bare_columns(path: Path) -> list[tuple[str, ...]]:
    """Columns of a tab-separated file without a header, as they were written. ConfigError names a row by line."""
    lines = list(every(path, Dialect(find_encoding(path), "\t")))
    if not lines:
        raise ConfigError(f"{path} is empty")
    width = len(lines[0][1])
    for line, record in lines:
        if len(record) != width:
            raise ConfigError(f"{path}: line 1 has {width} fields, but line {line} has {len(record)}")
    return list(zip(*(record for _, record in lines), strict=True))
