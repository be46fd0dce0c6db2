"""Which branch reads a file, told from what it holds: nobody has to say that an h5ad holds RNA."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from cellvision.core import rundir
from cellvision.core.errors import CellvisionError, ConfigError
from cellvision.core.progress import say

MOSTLY = 0.5  # share of a table's columns that must be time points
REPEATED = 3  # rows that an id of a long table has on average


class Guess(NamedTuple):
    """A branch, or several that it may be, and what in the file says so."""

    branches: tuple[str, ...]
    why: str


def branch_of(path: Path) -> str | None:
    """The branch that reads what lies at the path, said once; None where nothing tells.

    ConfigError names the branches between which the file leaves a choice.
    """
    guess = _of_folder(path) if path.is_dir() else _of_file(path) if path.is_file() else None
    if guess is None:
        return None
    if len(guess.branches) > 1:
        raise ConfigError(
            f"{path} may be items of {' or '.join(guess.branches)} ({guess.why}); say which with --branch"
        )
    if guess.branches[0] != "image":
        say_once(f"{path.name} is read as --branch {guess.branches[0]} ({guess.why})")
    return guess.branches[0]


@functools.cache
def say_once(text: str) -> None:
    say(text)


def _of_folder(path: Path) -> Guess | None:
    from cellvision.branches.rna import tenx
    from cellvision.branches.tabular import parts
    from cellvision.branches.trace import files, tables

    if (path / "cells.parquet").is_file():
        return Guess(("image",), "cells of a segment run")
    if (path / "run.json").is_file():
        return Guess(("trace",), "an extraction") if rundir.is_run(path, "extract") else None
    kinds = {}
    if tenx.is_folder(path):
        kinds["rna"] = "features, barcodes and matrix of 10x"
    if tables.find(path) is not None:
        kinds["trace"] = "dataset.csv"
    elif any(entry.suffix.lower() in files.SUFFIXES for entry in path.rglob("*")):
        kinds["trace"] = "HDF5 files"
    if parts.is_folder(path):
        kinds["tabular"] = "tables of CellProfiler"
    return Guess(tuple(kinds), ", ".join(kinds.values())) if kinds else None


def _of_file(path: Path) -> Guess | None:
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if ".h5ad" in suffixes:
        return Guess(("rna",), "h5ad")
    if ".mtx" in suffixes:
        return Guess(("rna",), "a matrix of 10x")
    if suffixes & {".h5", ".hdf5", ".mat"}:
        return _of_hdf5(path)
    names = _names(path)
    return _of_table(path, names) if names else None


def _of_hdf5(path: Path) -> Guess:
    """A file that cannot be opened is left to the reader of traces, which says why."""
    from cellvision.io import hdf5

    try:
        with hdf5.open_h5(path) as file:
            groups = [name for name in file if hasattr(file[name], "keys")]
            genomes = [name for name in groups if {"barcodes"} <= {*file[name]}]
            is_expression = bool(genomes) or {"obs", "var"} <= {*file}
    except CellvisionError:
        is_expression = False
    return Guess(("rna",), "counts of 10x") if is_expression else Guess(("trace",), "HDF5 of matrices")


def _names(path: Path) -> list[str]:
    """The columns of a CSV or Parquet file; none for anything else."""
    from cellvision.io import tables

    try:
        if tables.kind_of(path) == "parquet":
            return tables.parquet_names(path)
        return tables.names(path)
    except CellvisionError:
        return []


def _of_table(path: Path, names: list[str]) -> Guess:
    from cellvision.branches.rna import texts
    from cellvision.branches.trace import tables as tracetables

    if what := texts.looks_like_expression(names):
        return Guess(("rna",), what)
    timed, numbered = tracetables.time_points(names)
    if timed > MOSTLY * len(names):
        return Guess(("trace",), f"{timed} columns named by time")
    if numbered > MOSTLY * len(names):
        return Guess(("tabular", "trace"), f"{numbered} numbered columns are features or time points")
    if tracetables.is_long(path, names, REPEATED):
        return Guess(("tabular", "trace"), "its ids have several rows, at several times")
    return Guess(("tabular",), "a table")
