"""Counts: expression of single cells from h5ad, 10x (folder or h5) and CSV, in memory or streamed from the file.

Nothing is fitted here. What the values are (counts, or already normalised) is found in the data and said.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellvision.branches.rna import tenx, texts
from cellvision.branches.rna.kinds import WHOLE, kind_of
from cellvision.branches.rna.texts import text_columns
from cellvision.branches.rna.values import Backed, Expression, InMemory, Matrix, first_cells
from cellvision.core import files
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.io import h5ad, hdf5

if TYPE_CHECKING:
    import pandas as pd

BACKED_BYTES = 256 * 2**20  # values of a larger matrix stay in the file
COUNTS_LAYER = re.compile(r"(?i)(?:raw_?|umi_?)?counts?|umis?")
READS = "the rna branch reads h5ad, a 10x folder, h5 or mtx, CSV and TSV"


# -- files --------------------------------------------------------------------------------------------------------


def read(
    path: Path,
    layer: str = "auto",
    backed: bool | None = None,
    orient: str = "auto",
    labels: Collection[str] = (),
) -> Expression:
    """A file or 10x folder as `Expression`; of a table of text, columns in `labels` are no genes.

    ConfigError, UnsafeInput or NoUsableInput say what is wrong with it.
    """
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    files.refuse_pickled(path, "convert it to h5ad")
    if not path.exists():
        raise ConfigError(f"nothing at {path}; {READS}")
    if path.is_dir():
        expression = tenx.read_folder(path)
    elif suffixes & {".h5ad", ".h5", ".hdf5"}:
        expression = read_h5(path, layer, backed)
    elif ".mtx" in suffixes:
        expression = tenx.read_folder(path.parent, tenx.prefix_of(path))
    elif suffixes & {".csv", ".tsv", ".txt"}:
        expression = texts.read(path, orient, labels)
    else:
        raise ConfigError(f"cannot tell what {path} is; {READS}")
    if not expression.matrix.shape[0] or not expression.matrix.shape[1]:
        raise NoUsableInput(f"{path} holds {expression.matrix.shape[0]} cells and {expression.matrix.shape[1]} genes")
    return expression


def read_h5(path: Path, layer: str, backed: bool | None) -> Expression:
    """h5ad, or 10x h5 of both versions."""
    with hdf5.open_h5(path) as handle:
        if "obs" in handle and "var" in handle:
            return read_h5ad(path, handle, layer, backed)
        expression = tenx.read_h5(handle)
        if expression is None:
            raise ConfigError(f"{path} is neither h5ad (obs, var, X) nor 10x (matrix); it holds {', '.join(handle)}")
        return expression


def read_h5ad(path: Path, handle: Any, layer: str, backed: bool | None) -> Expression:
    """The chosen layer of an h5ad file; `auto` prefers counts to logs, and logs to what was scaled."""
    cells, where = read_frame(handle, "obs"), {}
    raw, of_raw = ("raw.X", "raw.var") if "raw.X" in handle else ("raw/X", "raw/var")  # before anndata 0.7
    for name, node in (("X", "X"), ("raw", raw), *((name, f"layers/{name}") for name in handle.get("layers", ()))):
        if node in handle:
            where[name] = node
    if not where:
        raise NoUsableInput(f"{path} has no X, no raw and no layers")
    if layer not in ("auto", *where):
        raise ConfigError(f"{path} has no layer {layer!r}; it has {', '.join(where)}")
    notes, name = [], layer
    if layer == "auto":
        named = (key for key in where if COUNTS_LAYER.fullmatch(key))
        order = [key for key in ("X", *named, "raw") if key in where] or list(where)
        said = {key: kind_of(first_cells(h5_matrix(path, handle, where[key], True))) for key in order}
        name = min(order, key=lambda key: _rank(*said[key]))
        if name != order[0]:
            notes.append(f"{order[0]} holds {said[order[0]][0]} values, so the {said[name][0]} in {name!r} are used")
    genes = read_frame(handle, of_raw if name == "raw" else "var")
    matrix = h5_matrix(path, handle, where[name], backed)
    h5ad.layout(handle, where[name]).check(len(cells), len(genes))
    facts = {"backed": isinstance(matrix, Backed), "layer": name}
    return Expression(matrix, genes.index.to_numpy(object), text_columns(genes), cells, notes, facts)


def _rank(kind: str, sentence: str) -> int:
    """Whole counts say most of a cell, scaled values least."""
    return {"counts": 0 if sentence == WHOLE else 1, "scaled": 3}.get(kind, 2)


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
