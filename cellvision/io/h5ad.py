"""The one reader of h5ad: obs and var as tables, matrices dense or sparse, of an HDF5 file that passed its audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellvision.core.errors import ConfigError
from cellvision.core.files import one_line

if TYPE_CHECKING:
    import h5py
    import pandas as pd


@dataclass(frozen=True)
class Layout:
    """How a matrix lies in its file: `kind` dense, csr or csc; `size` in bytes of its values and their places."""

    where: str
    kind: str
    shape: tuple[int, int]
    size: int

    def check(self, cells: int, genes: int) -> None:
        """ConfigError unless the matrix has a row for each cell and a column for each gene."""
        if self.shape != (cells, genes):
            raise ConfigError(
                f"{self.where} is {self.shape[0]} by {self.shape[1]}, but there are {cells} cells and {genes} genes"
            )


def frame(file: h5py.File, name: str) -> pd.DataFrame:
    """obs or var, named by text; files of anndata before 0.7 keep them as one compound dataset."""
    import h5py
    import pandas as pd
    from anndata._io.specs.registry import IORegistryError
    from anndata.io import read_elem

    node = file[name]
    if not isinstance(node, h5py.Dataset):
        try:
            table = read_elem(node)
        except IORegistryError as error:
            raise ConfigError(f"{file.filename}: {name} is no table that anndata reads ({one_line(error)})") from None
        if not isinstance(table, pd.DataFrame):
            raise ConfigError(f"{file.filename}: {name} is no table, but {type(table).__name__}")
        table.index = table.index.astype(str)
        return table
    table = pd.DataFrame({field: node[field] for field in node.dtype.names or ()})
    for column in table:
        table[column] = [_word(value) for value in table[column]]
        coded = f"uns/{column}_categories"
        if coded in file:
            words = [_word(value) for value in file[coded][()]]
            table[column] = [words[code] if code >= 0 else None for code in table[column]]
    table = table.set_index("index") if "index" in table else table
    table.index = table.index.astype(str)
    return table


def _word(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def layout(file: h5py.File, name: str) -> Layout:
    """ConfigError for what is no matrix of numbers, or whose parts do not fit together."""
    import h5py

    node, where = file[name], f"{file.filename}: {name}"
    if isinstance(node, h5py.Dataset):
        if node.ndim != 2 or node.dtype.kind not in "iufb":
            raise ConfigError(f"{where} is no matrix of numbers")
        return Layout(where, "dense", node.shape, node.size * node.dtype.itemsize)
    shape = tuple(int(side) for side in node.attrs.get("shape", node.attrs.get("h5sparse_shape", ())))
    kind = str(node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))).removesuffix("_matrix")
    if kind not in ("csr", "csc") or len(shape) != 2 or {"data", "indices", "indptr"} - set(node):
        raise ConfigError(f"{where} is no matrix this reads (dense, csr or csc), but {kind or 'unknown'!r}")
    lines = shape[0] if kind == "csr" else shape[1]
    if node["indptr"].size != lines + 1 or node["data"].size != node["indices"].size:
        raise ConfigError(f"{where} is damaged: its parts do not fit a {kind} matrix of {shape}")
    size = sum(array.size * array.dtype.itemsize for array in (node["data"], node["indices"]))
    return Layout(where, kind, (shape[0], shape[1]), size)


def whole(file: h5py.File, name: str) -> Any:
    """The values as they are stored, (cells, genes): an array, or a csr or csc matrix."""
    from scipy.sparse import csc_matrix, csr_matrix

    form, node = layout(file, name), file[name]
    if form.kind == "dense":
        return node[()]
    parts = (node["data"][()], node["indices"][()], node["indptr"][()])
    return checked((csr_matrix if form.kind == "csr" else csc_matrix)(parts, form.shape), form.where)


def checked(matrix: Any, where: str) -> Any:
    """A sparse matrix whose places lie inside of it. ConfigError where they do not: scipy would read beyond its end."""
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise ConfigError(f"{where} is damaged: {one_line(error)}") from None
    return matrix
