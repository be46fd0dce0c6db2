"""A set of cells: rows of a matrix that are left after joins, filters and subsampling, with genes named once.

Counts can be split: binomial thinning gives two halves that, for Poisson counts, are independent given the cell's
true expression, so that labels found on one half do not know the noise of the other (Neufeld et al. 2023).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import signatures
from cellvision.branches.rna.kinds import WHOLE, Kind, kind_of, linear
from cellvision.branches.rna.values import CHUNK, Expression, chunks
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.rng import generator

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

Half = Literal["first", "second"]
MITO = re.compile(r"(?:\w+_)?(?:MT|mt|Mt)-.*")  # a genome may stand before it
ENSEMBL = re.compile(r"(?:\w+_)?ENS[A-Z]*\d{3,}")
SYMBOLS = re.compile(r"(?i)(?:gene|feature|hgnc)?[\W_]*(?:symbols?|short_?names?|names?)")
MOSTLY = 0.5  # share of names that must be Ensembl's for symbols to be shown instead
SAMPLE = 500  # cells that the kind of the values is told from


@dataclass(frozen=True)
class Survey:
    """What one pass over the values finds, for each cell: total, genes detected, mitochondrial share, content hash.

    The share is of expression without its logarithm, and not known of scaled values.
    """

    total: NDArray[np.float64]
    detected: NDArray[np.int64]
    mito: NDArray[np.float64]
    content: NDArray[np.object_]
    cells_per_gene: NDArray[np.int64]


class CellSet:
    """Values of the cells `rows` (positions in the file), columns one a gene."""

    def __init__(self, found: Expression, half: Half | None = None) -> None:
        self.matrix, self.half = found.matrix, half
        self.rows = np.arange(found.matrix.shape[0])
        self.cells, self.notes, self.facts = found.cells, list(found.notes), dict(found.facts)
        sample = self.matrix.take(
            self.rows[np.linspace(0, len(self.rows) - 1, min(len(self.rows), SAMPLE)).astype(int)]
        )
        self.kind: Kind
        self.kind, sentence = kind_of(sample)
        self.notes.append(sentence)
        self.whole = sentence == WHOLE
        if half and not self.whole:
            raise ConfigError(f"only whole counts can be split in halves, and these {sentence}")
        self._name_cells()
        self._name_genes(found)

    def _name_cells(self) -> None:
        """Cells of one name get a number each."""
        names = self.cells.index.astype(str).to_numpy(object)
        self.names, repeated = unique_names(names)
        if repeated:
            self.notes.append(f"{repeated} cells share their name with another; they got a number behind it")

    def _name_genes(self, found: Expression) -> None:
        """Genes of one name are added up where they are counts, else numbered."""
        self.genes, self.aliases = found.genes.astype(str).astype(object), found.names
        self._sum: csr_matrix | None = None
        distinct, first, column = np.unique(self.genes.astype(str), return_index=True, return_inverse=True)
        repeated = len(self.genes) - len(distinct)
        if not repeated:
            return
        if self.kind == "counts":
            from scipy.sparse import csr_matrix

            order = np.argsort(first)  # genes stay in the order of the file
            place = np.argsort(order)
            shape = (len(self.genes), len(distinct))
            ones = np.ones(len(self.genes), np.float32)
            self._sum = csr_matrix((ones, (np.arange(len(self.genes)), place[column])), shape)
            kept = first[order]
            self.genes = self.genes[kept]
            self.aliases = {name: values[kept] for name, values in self.aliases.items()}
            self.notes.append(f"{repeated} columns repeat the name of a gene; their counts are added up")
        else:
            self.genes, _ = unique_names(self.genes)
            self.notes.append(f"{repeated} columns repeat the name of a gene; they got a number behind it")

    def symbols(self) -> dict[str, str]:
        """Ensembl id -> symbol, with the id behind it where two genes share one; empty where names are symbols."""
        key = next((key for key in self.aliases if SYMBOLS.fullmatch(key)), None)
        if key is None or np.mean([bool(ENSEMBL.match(str(name))) for name in self.genes]) < MOSTLY:
            return {}
        symbol = [str(name) for name in self.aliases[key]]
        count = Counter(symbol)
        return {
            str(gene): name if count[name] == 1 else f"{name} ({gene})"
            for gene, name in zip(self.genes, symbol, strict=True)
            if name and name != "nan"
        }

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.genes)

    def take(self, positions: NDArray[np.int64]) -> csr_matrix:
        """(n,) positions among the cells that are left -> (n, genes) values as they are, or of one half."""
        values = self.matrix.take(self.rows[positions])
        if self._sum is not None:
            values = (values @ self._sum).tocsr()
        values.eliminate_zeros()
        values.sort_indices()
        return thin(values, self.names[positions], self.half) if self.half else values

    def keep(self, positions: NDArray[np.int64]) -> None:
        """Go on with these cells alone: (n,) positions among those that are left."""
        self.rows, self.names = self.rows[positions], self.names[positions]
        self.cells = self.cells.iloc[positions]

    def survey(self) -> Survey:
        """One pass over all cells. ConfigError names the first value that is no number, or is negative among counts."""
        count, genes = self.shape
        total = np.zeros(count)
        detected, content = np.zeros(count, np.int64), np.empty(count, object)
        per_gene = np.zeros(genes, np.int64)
        named = [self.genes, *self.aliases.values()]
        is_mito = np.any([[bool(MITO.fullmatch(str(name))) for name in names] for names in named], axis=0)
        is_mito &= self.kind != "scaled"
        share = np.full(count, np.nan)
        for positions, values in chunks(self, np.arange(count), CHUNK):  # type: ignore[arg-type]
            self._check(values, positions)
            total[positions] = np.asarray(values.sum(1, dtype=np.float64)).ravel()
            detected[positions] = np.diff(values.indptr)
            per_gene += np.bincount(values.indices, minlength=genes)
            if is_mito.any():
                plain = values if self.kind == "counts" else linear(values, self.kind)
                every, mito = (np.asarray(part.sum(1, dtype=np.float64)).ravel() for part in (plain, plain[:, is_mito]))
                share[positions] = mito / np.where(every > 0, every, 1)
            for row, (start, stop) in enumerate(zip(values.indptr[:-1], values.indptr[1:], strict=True)):
                key = values.indices[start:stop].astype(np.int32).tobytes() + values.data[start:stop].tobytes()
                content[positions[row]] = hashlib.blake2b(key, digest_size=16).hexdigest()
        return Survey(total, detected, share, content, per_gene)

    def _check(self, values: csr_matrix, positions: NDArray[np.int64]) -> None:
        bad = ~np.isfinite(values.data)
        if self.kind == "counts":
            bad |= (values.data < 0) | (self.whole & (values.data != np.round(values.data)))
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = int(np.searchsorted(values.indptr, at, side="right")) - 1
            raise ConfigError(
                f"cell {self.names[positions[row]]!r} has the value {values.data[at]:g} for gene "
                f"{self.genes[values.indices[at]]!r}, among {self.kind}; mend the file or leave the cell out"
            )


def marks_of(data: CellSet) -> signatures.Marks:
    """What each cell is known by: which genes it shows; of scaled values, which have no zeros, the values."""
    names = list(map(str, data.genes))
    if data.kind != "scaled":
        return {"values": signatures.of_detected(data.take, len(data.rows), names)}
    parts = [values.toarray() for _, values in chunks(data, np.arange(len(data.rows)), CHUNK)]  # type: ignore[arg-type]
    return {"values": signatures.of_columns(np.concatenate(parts), names)}


def unique_names(names: NDArray[np.object_]) -> tuple[NDArray[np.object_], int]:
    """(n,) -> (n,) names with -1, -2 … behind the second and later of a kind, and how many there were."""
    seen: dict[str, int] = {}
    taken, out, repeated = set(map(str, names)), names.copy(), 0
    for position, name in enumerate(map(str, names)):
        number = seen.get(name, 0)
        if number:
            repeated += 1
            while f"{name}-{number}" in taken:
                number += 1
            out[position] = f"{name}-{number}"
            taken.add(out[position])
        seen[name] = number + 1
    return out, repeated


def thin(values: csr_matrix, names: NDArray[np.object_], half: Half) -> csr_matrix:
    """(n, genes) counts, (n,) names -> (n, genes): each count goes to the first half with probability 1/2.

    A cell's draw depends on its name alone.
    """
    out = values.copy()
    for row, name in enumerate(names):
        nonzeros = slice(out.indptr[row], out.indptr[row + 1])
        counts = out.data[nonzeros].astype(np.int64)
        drawn = generator(0, "half", name).binomial(counts, 0.5)
        out.data[nonzeros] = drawn if half == "first" else counts - drawn
    out.eliminate_zeros()
    return out


def matching(cells: pd.DataFrame, keep: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
    """Positions of the cells whose columns have one of the given values. ConfigError for what does not occur."""
    chosen = np.ones(len(cells), bool)
    for column, wanted in keep.items():
        if column not in cells:
            raise ConfigError(f"no column {column!r} to choose cells by; columns: {', '.join(map(str, cells.columns))}")
        values = cells[column].astype(str)
        missing = sorted(set(wanted) - set(values))
        if missing:
            raise ConfigError(f"column {column!r} has no {missing[0]!r}; it has {', '.join(sorted(set(values))[:8])}")
        chosen &= values.isin(list(wanted)).to_numpy()
    if not chosen.any():
        raise NoUsableInput(f"no cell is left of {len(cells)} by {dict(keep)}")
    return np.flatnonzero(chosen)


def by_depth(total: NDArray[np.float64], count: int, strata: int, seed: int) -> NDArray[np.int64]:
    """(cells,) totals -> sorted positions of `count` cells, the same share of every quantile stratum of the depth."""
    if count >= len(total):
        return np.arange(len(total))
    order = np.argsort(total, kind="stable")
    groups = np.array_split(order, min(strata, count))
    share = np.diff(np.round(np.linspace(0, count, len(groups) + 1)).astype(int))
    rng = generator(seed, "subsample by depth")
    return np.sort(np.concatenate([rng.permutation(group)[:size] for group, size in zip(groups, share, strict=True)]))


def sparsity(detected: NDArray[np.int64], cells_per_gene: NDArray[np.int64]) -> dict[str, Any]:
    """How full a matrix is: its shape, the share of nonzeros, and the medians per cell and per gene.

    detected: (cells,) genes detected in each cell; cells_per_gene: (genes,) cells that each gene is detected in.
    """
    cells, genes = len(detected), len(cells_per_gene)
    return {
        "cells": cells, "genes": genes, "nonzero": float(detected.sum() / max(1, cells * genes)),
        "genes_per_cell": float(np.median(detected)) if cells else 0.0,
        "cells_per_gene": float(np.median(cells_per_gene)) if genes else 0.0,
    }  # fmt: skip
