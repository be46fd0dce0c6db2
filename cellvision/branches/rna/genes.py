"""Genes: their moments over training cells, the choice of informative ones, bins, and thinned counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, State
from cellvision.core.rng import generator

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

KEPT = {"weak": 0.9, "strong": 0.6}  # share of a cell's counts that an augmented view keeps
SPREAD_POWER = 0.5  # of the standard deviation beside the detection rate, in `informative`
AXES = 64  # principal axes of the training cells, at most
LIMIT = 10.0  # standard deviations beyond which a value says no more


def columns_of(values: csr_matrix, columns: NDArray[np.int64]) -> csr_matrix:
    """(n, data genes) -> (n, len(columns)); a column of -1 is empty."""
    if len(columns) == values.shape[1] and np.array_equal(columns, np.arange(len(columns))):
        return values
    from scipy.sparse import csr_matrix

    there = np.flatnonzero(columns >= 0)
    ones = np.ones(len(there), np.float32)
    place = csr_matrix((ones, (columns[there], there)), (values.shape[1], len(columns)))
    return (values @ place).tocsr()


def thinned(values: csr_matrix, total: NDArray[np.float64], augment: Augment) -> tuple[Any, NDArray[np.float64]]:
    """(n, genes) counts, (n,) totals -> the same after binomial thinning.

    Each row's draw depends on the key and its position alone.
    """
    out, left = values.copy(), total.copy()
    for row in range(values.shape[0]):
        nonzeros = slice(out.indptr[row], out.indptr[row + 1])
        rng = generator(0, *augment.key, "thin", row)
        whole = np.floor(out.data[nonzeros])
        rest = out.data[nonzeros] - whole  # of counts that are not whole
        out.data[nonzeros] = rng.binomial(whole.astype(np.int64), KEPT[augment.strength])
        out.data[nonzeros] += rest * np.float32(KEPT[augment.strength])
        left[row] = out.data[nonzeros].sum()
    return out, left


def moments(parts: Iterable[csr_matrix]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(n_i, genes) … -> (genes,) mean, variance and share of cells with a nonzero, over all rows of the parts."""
    count, total, square, seen = 0, np.zeros(1), np.zeros(1), np.zeros(1)
    for values in parts:
        count += values.shape[0]
        total = total + np.asarray(values.sum(0, dtype=np.float64)).ravel()
        square = square + np.asarray(values.multiply(values).sum(0, dtype=np.float64)).ravel()
        seen = seen + np.bincount(values.indices[values.data != 0], minlength=values.shape[1])
    mean = total / count
    return mean, np.maximum(square / count - mean**2, 0) * count / max(1, count - 1), seen / count


def choose(
    mean: NDArray[np.float64], var: NDArray[np.float64], seen: NDArray[np.float64], count: int, how: str
) -> NDArray[np.int64]:
    """(genes,) mean, variance and share of cells -> sorted positions of the `count` best genes, or of all that vary.

    Genes without variance are never chosen, unless all are without.

    variable: log variance above a quadratic trend in the log mean. informative: detection rate times a root of the
    spread.
    """
    varying = np.flatnonzero(var > 0)
    if not len(varying):
        return np.arange(min(count, len(mean)))
    if len(varying) <= count:
        return varying
    if how == "informative":
        score = seen[varying] * var[varying] ** (SPREAD_POWER / 2)
    else:
        x, y = np.log(np.abs(mean[varying]) + 1e-9), np.log(var[varying])
        score = y - np.polyval(np.polyfit(x, y, 2), x)
    return np.sort(varying[np.argsort(-score, kind="stable")[:count]])


def bin_edges(values: NDArray[np.float32], bins: int) -> State:
    """(n, genes) >= 0 -> edges (genes, bins - 2) between the expressed bins, and log shares (genes, bins), smoothed.

    Bin 0 is silence; bins 1 … are quantiles of the gene's own expressed values.
    """
    genes = values.shape[1]
    edges = np.full((genes, bins - 2), np.inf, np.float32)
    shares = np.linspace(0, 1, bins)[1:-1]
    tally = np.zeros((genes, bins))
    for gene in range(genes):
        expressed = values[:, gene][values[:, gene] > 0]
        if len(expressed):
            edges[gene] = np.quantile(expressed, shares)
        tally[gene] = np.bincount(to_bins(values[:, gene], edges[gene]), minlength=bins)
    smooth = tally + 0.5
    return {"edges": edges, "log_share": np.log(smooth / smooth.sum(1, keepdims=True)).astype(np.float32)}


def to_bins(values: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n,) values of one gene, its (bins - 2,) edges -> (n,) bins.

    0 is silence, else 1 + the number of edges at or below the value.
    """
    return np.where(values > 0, 1 + np.searchsorted(edges, values, side="right"), 0)


def principal_axes(values: NDArray[np.float32], state: State) -> NDArray[np.float32]:
    """(n, genes) -> (axes, genes): the first principal axes of the standardised cells, each scaled to unit variance."""
    from scipy.sparse.linalg import svds

    centred = ((values - state["mean"]) / state["std"]).clip(-LIMIT, LIMIT)
    count = min(AXES, min(centred.shape) - 1)
    if count < 1 or not centred.any():
        return np.zeros((0, centred.shape[1]), np.float32)
    _, spread, axes = svds(centred, count, v0=np.ones(min(centred.shape)))
    real = np.flatnonzero(spread > 1e-4 * spread.max())[::-1]
    return (axes[real] * np.sqrt(len(values)) / spread[real, None]).astype(np.float32)
