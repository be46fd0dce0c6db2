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
from cellvision.io.packed import open_bytes, open_text

if TYPE_CHECKING:
    import pandas as pd

MARKET = [b"%%matrixmarket", b"matrix", b"coordinate"]
LINE = 1 << 16  # bytes a line of its head may have
DIGITS = 12  # of a number of rows, columns or values


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


def read_market(path: Path) -> Any:
    """A sparse matrix of MatrixMarket's coordinates, as 10x writes it, plain or gzipped; (rows, columns) coo.

    scipy's own reader writes beyond its memory where a file has other lines than it says. ConfigError for such a file.
    """
    import pandas as pd
    from scipy.sparse import coo_matrix

    with open_bytes(path) as handle:
        banner = handle.readline(LINE).lower().split()
        line = handle.readline(LINE)
        while line.startswith(b"%"):
            line = handle.readline(LINE)
        size = [int(text) for text in line.split() if text.isdigit() and len(text) < DIGITS]
        if banner[:3] != MARKET or banner[3:4] not in ([b"integer"], [b"real"]) or banner[4:] != [b"general"]:
            raise ConfigError(
                f"{path} is no MatrixMarket file of coordinates and numbers; expected one as 10x writes it"
            )
        if len(size) != 3 or len(line.split()) != 3:
            raise ConfigError(f"{path} does not say how many rows, columns and values it has")
        kinds = {"row": "int64", "column": "int64", "value": "int64" if banner[3] == b"integer" else "float64"}
        try:
            table = pd.read_csv(handle, sep=r"\s+", header=None, names=list(kinds), dtype=kinds, index_col=False)
        except pd.errors.EmptyDataError:
            table = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"cannot read {path}: {one_line(error)}") from None
    rows, columns = table["row"].to_numpy() - 1, table["column"].to_numpy() - 1
    if len(table) != size[2]:
        raise ConfigError(f"{path} says that it has {size[2]} values, but has {len(table)}; copy it again")
    for what, places, count in (("row", rows, size[0]), ("column", columns, size[1])):
        if len(places) and not 0 <= places.min() <= places.max() < count:
            raise ConfigError(f"{path} names a {what} that is not among its {count}; copy it again")
    return coo_matrix((table["value"].to_numpy(), (rows, columns)), (size[0], size[1]))
