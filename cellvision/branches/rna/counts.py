"""Counts: expression of single cells from h5ad, 10x (folder or h5) and CSV, in memory or streamed from the file.

Nothing is fitted here. What the values are (counts, or already normalised) is found in the data and said.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import csvrows, csvtables, h5ad, hdf5, matrices, tables
from cellvision.io.dialect import one_line

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

Kind = Literal["counts", "log1p", "log2", "normalised", "scaled"]
BACKED_BYTES = 256 * 2**20  # values of a larger matrix stay in the file
PORTION = 1000  # cells of a CSV read at once
CHUNK = 4096  # cells read at once when everything is gone through
SAMPLE = 500  # cells that the kind of the values is told from
LARGEST_LOG = 15.0  # logs of real data are smaller
NEAR = 0.9  # share of ratios that must be whole numbers for values to be scaled counts
GENE_HEADERS = {"", "gene", "genes", "gene_id", "gene_ids", "gene_name", "gene_symbol", "geneid", "symbol", "feature"}


class Matrix(Protocol):
    """Rows of a cells-by-genes matrix."""

    shape: tuple[int, int]

    def take(self, rows: NDArray[np.int64]) -> csr_matrix:
        """(n,) rows -> (n, genes) float32, in the order asked for."""
        ...


@dataclass
class Expression:
    """What a file holds: values, genes with their other names, and the table of cells, one row each."""

    matrix: Matrix
    genes: NDArray[np.object_]
    names: dict[str, NDArray[np.object_]]
    cells: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


# -- matrices -----------------------------------------------------------------------------------------------------


class InMemory:
    """A matrix that was read whole."""

    def __init__(self, values: Any) -> None:
        from scipy.sparse import csr_matrix

        self.values = csr_matrix(values, dtype=np.float32)
        self.values.sum_duplicates()
        self.shape = self.values.shape

    def take(self, rows: NDArray[np.int64]) -> csr_matrix:
        """(n,) rows -> (n, genes) float32."""
        return self.values[rows]


class Backed:
    """Rows read from an HDF5 file when asked for; every process opens the file for itself."""

    def __init__(self, path: Path, name: str, shape: tuple[int, int], sparse: bool) -> None:
        self.path, self.name, self.shape, self.sparse = path, name, shape, sparse
        self._node: Any = None
        self._opened_by = 0
        self._start: NDArray[np.int64] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_node": None}

    def _open(self) -> Any:
        if self._node is None or self._opened_by != os.getpid():  # a forked child would share the file's position
            self._node, self._opened_by = hdf5.audited(self.path)[self.name], os.getpid()
            if self.sparse and self._start is None:
                self._start = self._node["indptr"][:].astype(np.int64)
        return self._node

    def take(self, rows: NDArray[np.int64]) -> csr_matrix:
        """(n,) rows -> (n, genes) float32; neighbouring rows are read at once."""
        from scipy.sparse import csr_matrix, vstack

        node = self._open()
        order = np.argsort(rows, kind="stable")
        ends = np.flatnonzero(np.diff(rows[order]) != 1) + 1
        runs = [run for run in np.split(rows[order], ends) if len(run)]
        if not runs:
            return csr_matrix((0, self.shape[1]), dtype=np.float32)
        parts = [self._run(node, int(run[0]), int(run[-1]) + 1) for run in runs]
        return vstack(parts, "csr")[np.argsort(order)] if len(runs) > 1 else parts[0]

    def _run(self, node: Any, start: int, stop: int) -> csr_matrix:
        from scipy.sparse import csr_matrix

        if not self.sparse:
            return csr_matrix(node[start:stop].astype(np.float32))
        assert self._start is not None
        at = self._start[start : stop + 1]
        span = slice(int(at[0]), int(at[-1]))
        values = node["data"][span].astype(np.float32)
        matrix = csr_matrix((values, node["indices"][span], at - at[0]), (stop - start, self.shape[1]))
        matrix.sum_duplicates()
        return matrix


def first_cells(matrix: Matrix, count: int = 100) -> csr_matrix:
    return matrix.take(np.arange(min(count, matrix.shape[0])))


def chunks(matrix: Matrix, rows: NDArray[np.int64], size: int = CHUNK) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """(n,) rows -> pairs of (size,) rows and their (size, genes) values, the last pair with what is left."""
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield chunk, matrix.take(chunk)


# -- files --------------------------------------------------------------------------------------------------------


def read(path: Path, layer: str = "auto", backed: bool | None = None, orient: str = "auto") -> Expression:
    """A file or 10x folder as `Expression`. ConfigError, UnsafeInput or NoUsableInput say what is wrong with it."""
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    files.refuse_pickled(path, "convert it to h5ad")
    if not path.exists():
        raise ConfigError(f"nothing at {path}; the rna branch reads h5ad, a 10x folder or h5, CSV and TSV")
    if path.is_dir():
        expression = read_10x_folder(path)
    elif suffixes & {".h5ad", ".h5", ".hdf5"}:
        expression = read_h5(path, layer, backed)
    elif suffixes & {".csv", ".tsv", ".txt"}:
        expression = read_csv(path, orient)
    else:
        raise ConfigError(f"cannot tell what {path} is; the rna branch reads h5ad, a 10x folder or h5, CSV and TSV")
    if not expression.matrix.shape[0] or not expression.matrix.shape[1]:
        raise NoUsableInput(f"{path} holds {expression.matrix.shape[0]} cells and {expression.matrix.shape[1]} genes")
    return expression


def read_h5(path: Path, layer: str, backed: bool | None) -> Expression:
    """h5ad, or 10x h5 of both versions."""
    with hdf5.open_h5(path) as handle:
        if "obs" in handle and "var" in handle:
            return read_h5ad(path, handle, layer, backed)
        if "matrix" in handle:
            return read_10x_h5(handle["matrix"], ("features/id", "features/name"))
        old = [name for name in handle if "barcodes" in handle[name] and "genes" in handle[name]]
        if len(old) == 1:
            return read_10x_h5(handle[old[0]], ("genes", "gene_names"))
        raise ConfigError(f"{path} is neither h5ad (obs, var, X) nor a 10x file (matrix); it holds {', '.join(handle)}")


def read_h5ad(path: Path, handle: Any, layer: str, backed: bool | None) -> Expression:
    """The chosen layer of an h5ad file; `auto` prefers counts to what was made of them."""
    cells, where = read_frame(handle, "obs"), {}
    for name, node in (("X", "X"), ("raw", "raw/X"), *((name, f"layers/{name}") for name in handle.get("layers", ()))):
        if node in handle:
            where[name] = node
    if not where:
        raise NoUsableInput(f"{path} has no X, no raw and no layers")
    if layer not in ("auto", *where):
        raise ConfigError(f"{path} has no layer {layer!r}; it has {', '.join(where)}")
    notes = []
    name = layer
    if layer == "auto":
        order = [key for key in ("X", "counts", "raw") if key in where] or list(where)
        kinds = {key: kind_of(first_cells(h5_matrix(path, handle, where[key], True)))[0] for key in order}
        name = next((key for key in order if kinds[key] == "counts"), order[0])
        if name != order[0]:
            notes.append(f"{order[0]} holds {kinds[order[0]]} values, so the counts in {name!r} are used")
    genes = read_frame(handle, "raw/var" if name == "raw" else "var")
    matrix = h5_matrix(path, handle, where[name], backed)
    h5ad.layout(handle, where[name]).check(len(cells), len(genes))
    facts = {"backed": isinstance(matrix, Backed), "layer": name}
    return Expression(matrix, genes.index.to_numpy(object), text_columns(genes), cells, notes, facts)


def h5_matrix(path: Path, handle: Any, name: str, backed: bool | None) -> Matrix:
    """A dense or sparse matrix of an open file; column-wise sparse ones are read whole."""
    layout = h5ad.layout(handle, name)
    if layout.kind != "csc" and (layout.size > BACKED_BYTES if backed is None else backed):
        return Backed(path, name, layout.shape, layout.kind == "csr")
    return InMemory(h5ad.whole(handle, name))


def read_frame(handle: Any, name: str) -> pd.DataFrame:
    """obs or var, categories as their text."""
    import pandas as pd

    table = h5ad.frame(handle, name)
    for column in table:
        if isinstance(table[column].dtype, pd.CategoricalDtype):
            table[column] = table[column].astype(object)
    return table


def text_columns(table: pd.DataFrame) -> dict[str, NDArray[np.object_]]:
    """Other names of the genes: the columns of text."""
    return {str(name): table[name].astype(str).to_numpy(object) for name in table if table[name].dtype.kind in "OU"}


def read_10x_h5(node: Any, columns: tuple[str, str]) -> Expression:
    """The matrix group of a 10x h5 file: stored by cell, genes in rows."""
    from scipy.sparse import csc_matrix

    genes, symbols = (node[name][()].astype(str).astype(object) for name in columns)
    parts = (node[name][()] for name in ("data", "indices", "indptr"))
    values = csc_matrix(tuple(parts), tuple(int(size) for size in node["shape"][()])).T
    kinds = node["features/feature_type"][()].astype(str) if "features/feature_type" in node else None
    return of_10x(values, genes, symbols, kinds, node["barcodes"][()].astype(str))


def read_10x_folder(path: Path) -> Expression:
    """matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), plain or gzipped."""
    from scipy.io import mmread

    def find(*names: str) -> Path:
        for name in names:
            for file in (path / name, path / f"{name}.gz"):
                if file.is_file():
                    return file
        raise ConfigError(f"{path} is no 10x folder: it has no {names[0]}[.gz]")

    columns = [np.array(column, object) for column in csvrows.bare_columns(find("features.tsv", "genes.tsv"))]
    barcodes = np.array(csvrows.bare_columns(find("barcodes.tsv"))[0], object)
    matrix = find("matrix.mtx")
    try:
        values = mmread(matrix).T
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"cannot read the 10x folder {path}: {one_line(error)}") from None
    if values.shape != (len(barcodes), len(columns[0])):
        raise ConfigError(
            f"{path}: the matrix is {values.shape[1]} genes by {values.shape[0]} cells, features.tsv has "
            f"{len(columns[0])} lines and barcodes.tsv {len(barcodes)}"
        )
    symbols = columns[1] if len(columns) > 1 else columns[0]
    return of_10x(values, columns[0], symbols, columns[2] if len(columns) > 2 else None, barcodes)


def of_10x(values: Any, genes: Any, symbols: Any, kinds: Any, barcodes: Any) -> Expression:
    """Gene expression alone; antibodies and guides are left out and counted."""
    import pandas as pd

    notes = []
    if kinds is not None and (kinds != "Gene Expression").any() and (kinds == "Gene Expression").any():
        kept = np.flatnonzero(kinds == "Gene Expression")
        notes.append(f"{len(kinds) - len(kept)} features are no genes ({', '.join(sorted(set(kinds)))}) and left out")
        values, genes, symbols = values.tocsc()[:, kept], genes[kept], symbols[kept]
    cells = pd.DataFrame(index=pd.Index(barcodes, dtype=str))
    return Expression(InMemory(values.tocsr()), genes, {"symbol": symbols}, cells, notes)


def read_csv(path: Path, orient: str) -> Expression:
    """Cells in rows unless the first header says gene; columns of text describe the cells."""
    import pandas as pd
    from scipy.sparse import csr_matrix, vstack

    dialect = matrices.dialect_of(path)
    header = csvrows.header(path, dialect)
    parts: list[Any] = []
    beside: list[pd.DataFrame] = []
    numeric: list[str] | None = None
    names: list[str] = []
    for portion in matrices.named_portions(path, dialect, PORTION):
        if numeric is None:
            numeric = [name for name in portion if mostly_numbers(portion[name])]
            genes = header[len(header) - len(portion.columns) :]
            as_written = dict(zip(portion.columns, genes, strict=True))  # pandas renames twins
            names = [as_written[name] for name in numeric]
        above = sum(map(len, beside))
        parts.append(csr_matrix(tables.as_numbers(portion[numeric], path, above).to_numpy(np.float32)))
        beside.append(portion.drop(columns=numeric))
    if not numeric:
        raise NoUsableInput(f"{path} has no numeric column")
    table, values = pd.concat(beside), vstack(parts, "csr")
    first = re.sub(r"^unnamed: 0$", "", header[0].strip().lower())
    if orient == "genes" or (orient == "auto" and first in GENE_HEADERS - {""}):
        cells = pd.DataFrame(index=pd.Index(names, dtype=str))
        other = text_columns(table)
        return Expression(InMemory(values.T), table.index.astype(str).to_numpy(object), other, cells,
                          ["genes stand in the rows of this table"])  # fmt: skip
    table.index = table.index.astype(str)
    return Expression(InMemory(values), np.array(names, object), {}, table)


def mostly_numbers(column: pd.Series) -> bool:
    """A column of numbers, in which any other text is a fault and not a description of cells."""
    import pandas as pd

    if column.dtype.kind in "iufb":
        return True
    return bool(pd.to_numeric(column, errors="coerce").notna().sum() > csvtables.MOSTLY * column.notna().sum())


# -- what the values are ------------------------------------------------------------------------------------------


def kind_of(sample: csr_matrix) -> tuple[Kind, str]:
    """What the values of some cells are, and the sentence that says so.

    Counts divided by their cell's total, logged or not, are whole multiples of the smallest value of the cell.
    """
    values = sample.data[np.isfinite(sample.data)]
    if (values < 0).any():
        if np.array_equal(values, np.round(values)):
            raise ConfigError("the matrix holds negative whole numbers; counts cannot be negative: mend the file")
        return "scaled", "values are already scaled (some are negative); used as they are, and no gene is binned"
    if np.array_equal(values, np.round(values)):
        return "counts", "values are raw counts"
    logged = sample.copy()
    logged.data = np.where(sample.data < LARGEST_LOG, sample.data, 0).astype(np.float64)
    tries: tuple[tuple[Kind, Any, str], ...] = (
        ("log1p", np.expm1(logged.data), "values are already normalised: log1p of counts scaled per cell"),
        ("log2", np.exp2(logged.data) - 1, "values are already normalised: log2(1 + x) of counts scaled per cell"),
        ("normalised", sample.data, "values are already normalised, but not logged: counts scaled per cell"),
    )
    for kind, raw, sentence in tries:
        if whole_ratios(raw, sample.indptr) >= NEAR:
            return kind, sentence
    if values.max(initial=0) <= 20:
        return "log1p", "values are no counts and small: taken as already normalised and logged"
    return "normalised", "values are no counts: taken as already normalised, not logged"


def whole_ratios(raw: NDArray, start: NDArray) -> float:
    """Share of the small values whose ratio to the smallest of their cell is a whole number.

    raw: (nonzeros,) values; start: (cells + 1,) where each cell begins.
    """
    hits = total = 0
    for begin, end in itertools.pairwise(start):
        values = raw[begin:end][raw[begin:end] > 0]
        if len(values) >= 5:
            ratio = values / values.min()
            ratio = ratio[ratio < 20]
            hits += int((np.abs(ratio - np.round(ratio)) < 0.005 * ratio).sum())
            total += len(ratio)
    return hits / total if total else 0.0


def log_normalised(values: csr_matrix, kind: Kind, total: NDArray[np.float64], target_sum: float) -> csr_matrix:
    """(n, genes) values and (n,) totals -> natural log(1 + x) of counts per target_sum; zeros stay zeros."""
    out = values.astype(np.float32, copy=True)
    if kind == "counts":
        factor = target_sum / np.maximum(total, 1)
        out.data = np.log1p(out.data * np.repeat(factor, np.diff(out.indptr)).astype(np.float32))
    elif kind == "normalised":
        out.data = np.log1p(out.data)
    elif kind == "log2":
        out.data = out.data * np.float32(np.log(2))
    return out
