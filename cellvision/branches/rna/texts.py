"""Expression in a table of text: which way round it stands, what describes its cells, and its values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.rna.values import Expression, InMemory
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import csvrows, csvtables, matrices, tables

if TYPE_CHECKING:
    import pandas as pd

PORTION = 1000  # rows read at once
GENE_HEADER = re.compile(
    r"(?i)(?:gene|ensembl|symbol|feature|probe|transcript|hgnc)s?(?:[\W_]*(?:ids?|names?|symbols?))?"
)
CELL_HEADER = re.compile(r"(?i)(?:cell|barcode|sample|item|cb)s?(?:[\W_]*(?:ids?|names?|labels?|barcodes?))?")
CELL = re.compile(r"(?:.*[_.:#-])?[ACGTN]{4,}[ACGTN\d]*(?:[-.]\d+)?|(?i:(?:.*[\W_])?cell[\W_]?\d+)")
GENE = re.compile(
    r"(?i:ENS[A-Z]*[GT]\d{5,}(?:\.\d+)?|gene[\W_]?\d+|MT-\w+|RP[LS]\d+\w*|LINC\d+|ACTB|GAPDH|MALAT1|B2M|XIST)"
)
MOSTLY = 0.5  # share of names that must look like cells, or like genes
LEAST_COLUMNS = 4  # of a table of expression
SOME = 3  # or so many genes that everybody knows


def read(path: Path, orient: str, labels: Collection[str] = ()) -> Expression:
    """`orient`: cells or genes stand in the rows, or auto. Columns of text, and `labels`, describe the cells."""
    import pandas as pd
    from scipy.sparse import csr_matrix, vstack

    dialect = matrices.dialect_of(path)
    header = csvrows.header(path, dialect)
    first = next(matrices.named_portions(path, dialect, PORTION))
    written = header[len(header) - len(first.columns) :]  # pandas renames twins
    numeric = [
        name for name, own in zip(first, written, strict=True) if own not in labels and mostly_numbers(first[name])
    ]
    if not numeric:
        raise NoUsableInput(f"{path} has no numeric column")
    texts = [name for name in first if name not in numeric]
    parts: list[Any] = []
    beside: list[pd.DataFrame] = []
    for portion in matrices.named_portions(path, dialect, PORTION, texts):
        above = sum(map(len, beside))
        parts.append(csr_matrix(tables.as_numbers(portion[numeric], path, above).to_numpy(np.float32)))
        beside.append(portion.drop(columns=numeric))
    table, values = pd.concat(beside), vstack(parts, "csr")
    as_written = dict(zip(first.columns, written, strict=True))
    table = table.rename(columns=as_written)
    table.index = table.index.astype(str)
    names = [as_written[name] for name in numeric]
    corner = header[0].strip() if len(header) > len(first.columns) else ""
    turned = orient if orient != "auto" else rows_are(corner, [*table.index], names, texts, path)
    if turned == "genes":
        cells = pd.DataFrame(index=pd.Index(names, dtype=str))
        return Expression(InMemory(values.T), table.index.to_numpy(object), text_columns(table), cells,
                          ["genes stand in the rows of this table"])  # fmt: skip
    return Expression(InMemory(values), np.array(names, object), {}, table)


def rows_are(corner: str, rows: Sequence[str], columns: Sequence[str], texts: Sequence[str], path: Path) -> str:
    """`cells` or `genes`, by the header of the row names, then by how rows and columns are called.

    ConfigError where the corner is empty and no name tells.
    """
    if GENE_HEADER.fullmatch(corner):
        return "genes"
    if CELL_HEADER.fullmatch(corner):
        return "cells"
    row, column = _look(rows), _look(columns)
    if row != column:
        return row if row else {"cells": "genes", "genes": "cells"}[column]
    if texts or corner.strip().lower() not in ("", "index", "unnamed: 0", "name", "id"):
        return "cells"
    raise ConfigError(
        f"{path} does not say whether cells or genes stand in its rows, which are called {rows[0]!r}, its columns "
        f"{columns[0]!r}; say --branch.orient cells or genes"
    )


def looks_like_expression(names: Sequence[str]) -> str:
    """What in a table's header says that it holds expression; empty where nothing does."""
    if len(names) < LEAST_COLUMNS:
        return ""
    if GENE_HEADER.fullmatch(names[0].strip()):
        return f"rows named by {names[0].strip()!r}"
    look = _look(names[1:])
    return {"genes": "columns called like genes", "cells": "columns called like barcodes"}.get(look, "")


def _look(names: Sequence[str]) -> str:
    """What these are the names of; empty where they do not tell."""
    genes, cells = (sum(bool(kind.fullmatch(name)) for name in names) for kind in (GENE, CELL))
    if cells > MOSTLY * len(names) and cells > genes:
        return "cells"
    return "genes" if genes > MOSTLY * len(names) or genes >= SOME else ""


def text_columns(table: pd.DataFrame) -> dict[str, NDArray[np.object_]]:
    """Other names of the genes: the columns of text."""
    return {str(name): table[name].astype(str).to_numpy(object) for name in table if table[name].dtype.kind in "OU"}


def mostly_numbers(column: pd.Series) -> bool:
    """A column of numbers, in which any other text is a fault and not a description of cells."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        return True
    if column.dtype.kind == "b":  # True and False
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().sum() > csvtables.MOSTLY * column.notna().sum())
