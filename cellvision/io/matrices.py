"""Large CSV tables that are mostly numbers, such as counts and traces: the files that `tables` reads, in portions.

Text columns and missing values are found as pandas finds them; genes may stand twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import csvrows, tables
from cellvision.io.dialect import Dialect, one_line, sniff
from cellvision.io.packed import open_text

if TYPE_CHECKING:
    import pandas as pd


def dialect_of(path: Path) -> Dialect:
    """ConfigError or UnsafeInput for what is no CSV, NoUsableInput for an empty file."""
    if tables.kind_of(path) != "csv":
        raise ConfigError(f"{path} is no CSV; expected a table of numbers as text")
    return sniff(path, unsure=",")


def named_portions(path: Path, dialect: Dialect, count: int, texts: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
    """`count` rows at a time; the first column, and those in `texts`, as they were written; the first names the rows.

    A header without a name for the row names, as R writes it, is understood.
    """
    names, first = csvrows.first_rows(path, dialect)
    beside = len(first) == len(names) + 1
    words: dict[int | str, Any] = {} if beside else {0: str}  # with a dtype pandas handles every column by itself
    words |= dict.fromkeys(texts, lambda cell: cell or None)
    settings = {"index_col": 0, "converters": words}
    yield from _portions(path, dialect, count, settings, len(first) if beside else len(names))


def _portions(path: Path, dialect: Dialect, count: int, settings: dict[str, Any], width: int) -> Iterator[pd.DataFrame]:
    """ConfigError names the rows that are too long or too short, by line."""
    import pandas as pd

    below = range(dialect.skip + 1, dialect.skip + dialect.head)  # rows of the header that are no names
    skipped = [*range(dialect.skip), *below] if below else dialect.skip
    settings = {**settings, "sep": dialect.separator, "decimal": dialect.decimal, "skiprows": skipped}
    checked = False
    try:
        with open_text(path, dialect.encoding) as handle:
            for portion in pd.read_csv(handle, chunksize=count, low_memory=False, **settings):
                if not checked and portion.iloc[:, -1:].isna().to_numpy().any():  # pandas fills short rows
                    csvrows.refuse_ragged(path, dialect, width)
                    checked = True
                yield portion
    except pd.errors.EmptyDataError:
        raise NoUsableInput(f"{path} holds no rows") from None
    except (ValueError, OSError) as error:
        fault = csvrows.ragged(path, dialect, width) if isinstance(error, pd.errors.ParserError) else None
        raise ConfigError(fault or f"cannot read {path}: {one_line(error)}") from None
