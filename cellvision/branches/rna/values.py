"""The values of a cells-by-genes matrix, in memory or left in their HDF5 file, and what is known of cells and genes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellvision.io import h5ad, hdf5

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

CHUNK = 4096  # cells read at once when everything is gone through


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
        with hdf5.sound(self.path):
            return self._taken(rows)

    def _taken(self, rows: NDArray[np.int64]) -> csr_matrix:
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
        h5ad.checked(matrix, f"{self.path}: {self.name}")
        matrix.sum_duplicates()
        return matrix


def first_cells(matrix: Matrix, count: int = 100) -> csr_matrix:
    return matrix.take(np.arange(min(count, matrix.shape[0])))


def chunks(matrix: Matrix, rows: NDArray[np.int64], size: int = CHUNK) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """(n,) rows -> pairs of (size,) rows and their (size, genes) values, the last pair with what is left."""
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield chunk, matrix.take(chunk)
