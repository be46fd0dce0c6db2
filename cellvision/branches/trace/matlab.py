"""Traces in the matrices, cell arrays and structs of a MATLAB v7.3 file (HDF5), or in the datasets of another program.

What is read, by the names the file gives:

- a matrix of numbers, a row a cell or a column a cell: one trace each; several of one shape are channels;
- a cell array of vectors: one trace each, of unequal lengths too; of matrices: one sample each, a unit of its own;
- a struct's fields are `struct.field`; an array of structs is a cell array for each field;
- vectors, texts and cell arrays of texts with an entry a trace (or a sample) are columns: labels, units, doses;
- a vector named time, t or frame with an entry a point says which way round a matrix stands.

MATLAB shows (rows, columns) where HDF5 holds (columns, rows); here shapes are as MATLAB shows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches.trace.store import TRACE
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import hdf5

if TYPE_CHECKING:
    import h5py

TIMES = ("time", "times", "t", "frame", "frames", "timepoints")
LEAST_POINTS = 3  # of a trace
DEPTH = 4  # structs inside structs
HIDDEN = ("#refs#", "#subsystem#")


@dataclass
class Variables:
    """What a file holds, by name: matrices (rows, columns), cell arrays as lists, texts as lists of text."""

    matrices: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    cells: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Traces (cells, channels, time) of one matrix or cell array, and columns for what is known of each."""

    values: NDArray[np.float32]
    columns: dict[str, list[Any]]
    channels: tuple[str, ...] = (TRACE,)


def read(path: Path, variable: str | None, layout: str) -> list[Sample]:
    """`variable`: which one holds the traces; `layout`: wide (a row a cell) or columns (a column a cell), else auto.

    NoUsableInput where nothing looks like traces, ConfigError where it has to be said which.
    """
    with hdf5.open_h5(path) as file:
        found = Variables()
        for name, node in _walk(file, ""):
            _take(file, name, node, found)
    names = [variable] if variable else [*_candidates(found.matrices), *found.cells]
    if variable is not None and variable not in {*found.matrices, *found.cells}:
        there = ", ".join([*_candidates(found.matrices), *found.cells])
        raise ConfigError(f"{path} has no variable {variable!r} of traces; it has {there or 'none'}")
    if not names:
        raise NoUsableInput(f"{path} has no group timeTraces with samples, and no matrix or cell array of traces")
    shapes = {found.matrices[name].shape if name in found.matrices else None for name in names}
    if len(names) > 1 and (None in shapes or len(shapes) > 1):
        raise ConfigError(f"{path}: {', '.join(names)} may all be traces; name one with --branch.variable")
    name = names[0]
    if name in found.cells and all(min(part.shape) == 1 for part in found.cells[name]):
        return [_of_vectors(found, name)]
    if name in found.cells:
        return list(_of_samples(found, name, layout, path))
    values = np.stack([_turned(found.matrices[key], found, key, layout, path) for key in names], axis=1)
    channels = tuple(key.rpartition(".")[2] for key in names) if len(names) > 1 else (TRACE,)
    return [Sample(values, _columns(found, name, len(values)), channels)]


def _candidates(matrices: dict[str, NDArray]) -> list[str]:
    """Matrices with several rows and several columns."""
    return [name for name, values in matrices.items() if min(values.shape) > 1 and max(values.shape) >= LEAST_POINTS]


def _walk(group: Any, above: str, depth: int = 0) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every dataset below a group, by its name with points."""
    import h5py

    for key, node in group.items():
        if key in HIDDEN:
            continue
        if isinstance(node, h5py.Dataset):
            yield f"{above}{key}", node
        elif depth < DEPTH:
            yield from _walk(node, f"{above}{key}.", depth + 1)


def _take(file: Any, name: str, node: h5py.Dataset, found: Variables) -> None:
    """One variable, as what it is; what is none of them is left."""
    import h5py

    kind = _class(node)
    if node.attrs.get("MATLAB_empty", 0) or node.size == 0 or node.ndim > 2:
        return
    if h5py.check_ref_dtype(node.dtype) is not None:
        parts = [file[reference] for reference in np.ravel(node[()].T) if reference]
        if parts and all(isinstance(part, h5py.Dataset) for part in parts):
            if all(_class(part) == "char" for part in parts):
                found.texts[name] = [_text(part) for part in parts]
            elif all(part.dtype.kind in "iuf" and part.ndim == 2 and part.size for part in parts):
                _take_cells(name, [_shown(part) for part in parts], found)
    elif kind == "char":
        found.texts[name] = [_text(node)]
    elif node.dtype.kind in "iufb":
        found.matrices[name] = _shown(node)
    elif node.dtype.kind in "SO" and node.ndim == 1:
        found.texts[name] = hdf5.strings(node)


def _take_cells(name: str, parts: list[NDArray[np.float32]], found: Variables) -> None:
    """A cell array of single numbers is a vector."""
    if all(part.size == 1 for part in parts):
        found.matrices[name] = np.concatenate([part.ravel() for part in parts])[:, None]
    else:
        found.cells[name] = parts


def _class(node: Any) -> str:
    value = node.attrs.get("MATLAB_class", b"")
    return value.decode() if isinstance(value, bytes) else str(value)


def _shown(node: h5py.Dataset) -> NDArray[np.float32]:
    """A matrix as MATLAB shows it, or as another program wrote it; a vector is a column."""
    values = np.asarray(node[()], np.float32)
    values = values[:, None] if values.ndim < 2 else values
    return np.ascontiguousarray(values.T) if _class(node) else values.reshape(len(values), -1)


def _text(node: h5py.Dataset) -> str:
    if node.attrs.get("MATLAB_empty", 0):
        return ""
    return "".join(chr(code) for code in np.ravel(node[()]).tolist())


def _of_vectors(found: Variables, name: str) -> Sample:
    """A trace for each part of a cell array; shorter ones are filled with NaN at their end."""
    parts = [part.ravel() for part in found.cells[name]]
    values = np.full((len(parts), max(map(len, parts))), np.nan, np.float32)
    for row, part in enumerate(parts):
        values[row, : len(part)] = part
    return Sample(values[:, None], _columns(found, name, len(parts)))


def _of_samples(found: Variables, name: str, layout: str, path: Path) -> Iterator[Sample]:
    """The matrices of a cell array, each with what is known of it."""
    parts = found.cells[name]
    known = _columns(found, name, len(parts))
    for number, part in enumerate(parts):
        matrix = _turned(part, found, name, layout, path)
        columns = {key: [column[number]] * len(matrix) for key, column in known.items()}
        yield Sample(matrix[:, None], columns | {"sample": [str(number + 1)] * len(matrix)})


def _columns(found: Variables, name: str, count: int) -> dict[str, list[Any]]:
    """Vectors and texts with an entry a trace; those of the same struct under their own name."""
    home = name.rpartition(".")[0]
    vectors = {
        key: [int(value) if float(value).is_integer() else float(value) for value in values.ravel()]
        for key, values in found.matrices.items()
        if key != name and values.size == count and min(values.shape) == 1 and _last(key) not in TIMES
    }
    texts = {key: list(words) for key, words in found.texts.items() if len(words) == count and count > 1}
    named = {key.removeprefix(f"{home}.") if home else key: value for key, value in (vectors | texts).items()}
    return {key.replace(".", "_"): value for key, value in named.items()}


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _turned(values: NDArray[np.float32], found: Variables, name: str, layout: str, path: Path) -> NDArray[np.float32]:
    """(rows, columns) -> (cells, time), by what was said, or by vectors with an entry a point or a cell."""
    if layout in ("wide", "columns"):
        return values if layout == "wide" else np.ascontiguousarray(values.T)
    rows, columns = values.shape
    times = {part.size for key, part in found.matrices.items() if _last(key) in TIMES and min(part.shape) == 1}
    known = {part.size for key, part in found.matrices.items() if min(part.shape) == 1 and _last(key) not in TIMES}
    known |= {len(words) for words in found.texts.values()}
    wide = (columns in times) or (rows in known)
    tall = (rows in times) or (columns in known)
    if wide == tall:
        raise ConfigError(
            f"{path}: {name} is {rows} by {columns} and nothing says which are the cells; give --branch.layout wide "
            "where a row is a cell, columns where a column is"
        )
    return values if wide else np.ascontiguousarray(values.T)
