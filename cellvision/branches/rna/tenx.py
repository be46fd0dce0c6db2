"""Counts as 10x writes them: a folder of three files, several samples in one folder as GEO packs them, and both h5s."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from cellvision.branches.rna.values import Expression, InMemory
from cellvision.core.errors import ConfigError
from cellvision.io import csvrows, h5ad, matrices

FILE = re.compile(r"(?i)(.*?)[._-]?(features|genes|barcodes|matrix)\.(?:tsv|mtx)(?:\.gz)?$")
EXPRESSION = "Gene Expression"
SAMPLE_COLUMN = "sample"


def read_folder(path: Path, only: str | None = None) -> Expression:
    """matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), plain or gzipped, a prefix before their names or none.

    Several prefixes, or folders of their own, are samples: their cells stand one below the other. `only`: one prefix.
    """
    samples = _samples(path)
    if not samples:
        samples = {
            folder.name: inner[next(iter(inner))]
            for folder in sorted(entry for entry in path.iterdir() if entry.is_dir())
            if len(inner := _samples(folder)) == 1
        }
    if only is not None:
        samples = {name: parts for name, parts in samples.items() if name == only}
    if not samples:
        raise ConfigError(f"{path} is no 10x folder: it has no features.tsv[.gz]")
    read = {name: _read_sample(path, parts) for name, parts in samples.items()}
    return next(iter(read.values())) if len(read) == 1 else stacked(read)


def is_folder(path: Path) -> bool:
    """Whether a folder holds a matrix of 10x, or folders that do."""
    return any(
        FILE.match(entry.name) for folder in (path, *path.iterdir()) if folder.is_dir() for entry in folder.iterdir()
    )


def _samples(folder: Path) -> dict[str, dict[str, Path]]:
    """Prefix -> kind of file -> file."""
    samples: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = FILE.match(path.name)
        if match and path.is_file():
            kind = {"genes": "features"}.get(match[2].lower(), match[2].lower())
            samples.setdefault(match[1], {}).setdefault(kind, path)
    return samples


def prefix_of(path: Path) -> str:
    """GSM1_S1_matrix.mtx.gz -> GSM1_S1."""
    match = FILE.match(path.name)
    return match[1] if match else ""


def _read_sample(folder: Path, parts: dict[str, Path]) -> Expression:
    for kind, name in (("features", "features.tsv"), ("barcodes", "barcodes.tsv"), ("matrix", "matrix.mtx")):
        if kind not in parts:
            beside = ", ".join(path.name for path in parts.values())
            raise ConfigError(f"{folder} is no 10x folder: it has no {name}[.gz] beside {beside}")
    columns = [np.array(column, object) for column in csvrows.bare_columns(parts["features"])]
    barcodes = np.array(csvrows.bare_columns(parts["barcodes"])[0], object)
    values = matrices.read_market(parts["matrix"]).T
    if values.shape != (len(barcodes), len(columns[0])):
        raise ConfigError(
            f"{folder}: the matrix is {values.shape[1]} genes by {values.shape[0]} cells, {parts['features'].name} has "
            f"{len(columns[0])} lines and {parts['barcodes'].name} {len(barcodes)}"
        )
    symbols = columns[1] if len(columns) > 1 else columns[0]
    return of_10x(values, columns[0], symbols, columns[2] if len(columns) > 2 else None, barcodes)


def stacked(samples: dict[str, Expression]) -> Expression:
    """The cells of all samples, with the genes that all have, in the order of the first."""
    import pandas as pd
    from scipy.sparse import vstack

    every = list(samples.values())
    shared = set.intersection(*(set(sample.genes) for sample in every))
    genes = np.array([gene for gene in dict.fromkeys(every[0].genes) if gene in shared], object)
    if not len(genes):
        ones = ", ".join(f"{name} {sample.genes[0]!r}" for name, sample in samples.items())
        raise ConfigError(f"the samples share no gene; their first ones are {ones}")
    parts, first = [], every[0]
    for sample in every:
        place = {gene: at for at, gene in reversed([*enumerate(sample.genes)])}
        values = sample.matrix.take(np.arange(sample.matrix.shape[0]))
        parts.append(values[:, [place[gene] for gene in genes]])
    at_first = {gene: at for at, gene in reversed([*enumerate(first.genes)])}
    names = {key: column[[at_first[gene] for gene in genes]] for key, column in first.names.items()}
    cells = [f"{name}_{cell}" for name, sample in samples.items() for cell in sample.cells.index]
    of_cell = [name for name, sample in samples.items() for _ in sample.cells.index]
    table = pd.DataFrame({SAMPLE_COLUMN: of_cell}, index=pd.Index(cells, dtype=str))
    lost = max(len(sample.genes) for sample in every) - len(genes)
    notes = list(dict.fromkeys(note for sample in every for note in sample.notes))
    notes.append(f"{len(samples)} samples, each a unit (column {SAMPLE_COLUMN!r}): {', '.join(samples)}")
    notes += [f"{lost} genes that not all samples have are left out"] if lost else []
    return Expression(InMemory(vstack(parts, "csr")), genes, names, table, notes, {"samples": len(samples)})


def read_h5(handle: Any) -> Expression | None:
    """The matrix of a 10x h5 file; of an older one with several genomes, their genes side by side. None without one."""
    if "matrix" in handle:
        return _of_group(handle["matrix"], ("features/id", "features/name"))
    groups = [name for name in handle if handle.get(name, getclass=True).__name__ == "Group"]
    genomes = [name for name in groups if {"barcodes", "genes"} <= {*handle[name]}]
    if not genomes:
        return None
    read = {name: _of_group(handle[name], ("genes", "gene_names")) for name in genomes}
    return read[genomes[0]] if len(read) == 1 else _side_by_side(read)


def _side_by_side(genomes: dict[str, Expression]) -> Expression:
    import pandas as pd
    from scipy.sparse import csr_matrix, hstack

    cells = list(dict.fromkeys(cell for genome in genomes.values() for cell in genome.cells.index))
    parts, shares = [], {}
    for name, genome in genomes.items():
        at = genome.cells.index.get_indexer(pd.Index(cells))
        rows, here = np.flatnonzero(at >= 0), at[at >= 0]
        ones = csr_matrix((np.ones(len(rows), np.float32), (rows, here)), (len(cells), len(genome.cells)))
        parts.append((ones @ genome.matrix.take(np.arange(len(genome.cells)))).tocsr())
        shares[name] = np.asarray(parts[-1].sum(1, dtype=np.float64)).ravel()
    genes = np.concatenate([[f"{name}_{gene}" for gene in genome.genes] for name, genome in genomes.items()])
    symbols = np.concatenate(
        [[f"{name}_{gene}" for gene in genome.names["symbol"]] for name, genome in genomes.items()]
    )
    most = np.array(list(genomes), object)[np.argmax(np.stack([*shares.values()]), axis=0)]
    table = pd.DataFrame({"genome": most}, index=pd.Index(cells, dtype=str))
    note = f"genes of {len(genomes)} genomes ({', '.join(genomes)}); the column genome says which a cell has most of"
    named = {"symbol": symbols.astype(object)}
    return Expression(InMemory(hstack(parts, "csr")), genes.astype(object), named, table, [note])


def _of_group(node: Any, columns: tuple[str, str]) -> Expression:
    """The matrix group of a 10x h5 file: stored by cell, genes in rows."""
    from scipy.sparse import csc_matrix

    genes, symbols = (node[name][()].astype(str).astype(object) for name in columns)
    parts = (node[name][()] for name in ("data", "indices", "indptr"))
    stored = csc_matrix(tuple(parts), tuple(int(size) for size in node["shape"][()]))
    where, ends = f"{node.file.filename}: {node.name}", (len(genes), len(node["barcodes"]))
    if stored.shape != ends or len(symbols) != len(genes):
        raise ConfigError(f"{where} is {stored.shape}, but names {len(genes)} genes and {ends[1]} cells")
    values = h5ad.checked(stored, where).T
    kinds = node["features/feature_type"][()].astype(str) if "features/feature_type" in node else None
    if kinds is not None and kinds.shape != genes.shape:
        raise ConfigError(f"{where} names {len(genes)} genes, but {kinds.size} types of them")
    return of_10x(values, genes, symbols, kinds, node["barcodes"][()].astype(str))


def of_10x(values: Any, genes: Any, symbols: Any, kinds: Any, barcodes: Any) -> Expression:
    """Gene expression alone; antibodies and guides are left out and counted."""
    import pandas as pd

    notes = []
    if kinds is not None and (kinds != EXPRESSION).any() and (kinds == EXPRESSION).any():
        kept = np.flatnonzero(kinds == EXPRESSION)
        notes.append(f"{len(kinds) - len(kept)} features are no genes ({', '.join(sorted(set(kinds)))}) and left out")
        values, genes, symbols = values.tocsc()[:, kept], genes[kept], symbols[kept]
    cells = pd.DataFrame(index=pd.Index(barcodes, dtype=str))
    return Expression(InMemory(values.tocsr()), genes, {"symbol": symbols}, cells, notes)
