"""Neighbours: principal components, the graph of nearest neighbours, its communities, and projections to two axes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Communities = Literal["auto", "leiden", "louvain"]
Projection = Literal["pca", "tsne", "umap"]
FEWEST_SHARED = 1 / 15  # share of common neighbours below which two cells are not joined (as Seurat prunes)
PERPLEXITY = 30.0  # of t-SNE


def principal(parts: Callable[[], Iterator[NDArray]], components: int) -> tuple[NDArray[np.float32], NDArray]:
    """Scores (n, k) of standardised features and the share of variance of each component.

    `parts()` yields the rows (m, d) in order, twice; the memory needed is d * d and not n * d.
    """
    count, total, square = 0, np.zeros(1), np.zeros((1, 1))
    for values in parts():
        wide = values.astype(np.float64)
        count, total, square = count + len(wide), total + wide.sum(0), square + wide.T @ wide
    mean = total / count
    covariance = square / count - np.outer(mean, mean)
    share, axes = np.linalg.eigh(covariance)
    order = np.argsort(-share)[: min(components, len(mean), max(1, count - 1))]
    axes = axes[:, order]
    axes *= np.sign(axes[np.abs(axes).argmax(0), np.arange(len(order))])  # a sign that does not depend on the library
    scores = [((values - mean) @ axes).astype(np.float32) for values in parts()]
    return np.concatenate(scores), np.maximum(share[order], 0) / max(float(share.sum()), 1e-12)


def neighbour_graph(points: NDArray[np.float32], neighbours: int) -> csr_matrix:
    """(n, d) -> symmetric (n, n) weights: the Jaccard index of two neighbours' neighbourhoods (as PhenoGraph)."""
    from scipy.sparse import csr_matrix
    from sklearn.neighbors import NearestNeighbors

    count = min(neighbours, len(points) - 1)
    near = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)
    rows = np.repeat(np.arange(len(points)), count + 1)
    columns = np.concatenate([np.arange(len(points))[:, None], near], axis=1).ravel()
    around = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(points), len(points)))
    either = around.maximum(around.T)
    either.setdiag(0)
    either.eliminate_zeros()
    shared = (around @ around.T).multiply(either).tocsr()
    shared.data = shared.data / (2 * (count + 1) - shared.data)
    shared.data[shared.data < FEWEST_SHARED] = 0
    shared.eliminate_zeros()
    return shared


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def communities(graph: csr_matrix, how: Communities, resolution: float, seed: int) -> tuple[NDArray[np.int64], str]:
    """(n,) communities of the nodes, the largest being 0, and the method: Leiden with igraph, else Louvain."""
    from scipy.sparse import triu

    if how == "leiden" and not installed("igraph"):
        raise ConfigError('Leiden needs igraph: pip install "cellvision[leiden]", or use method louvain')
    upper = triu(graph, 1).tocoo()
    if how != "louvain" and installed("igraph"):
        membership, name = _leiden(upper, graph.shape[0], resolution, seed), "leiden"
    else:
        membership, name = _louvain(upper, graph.shape[0], resolution, seed), "louvain"
    _, dense, sizes = np.unique(membership, return_inverse=True, return_counts=True)
    return np.argsort(np.argsort(-sizes, kind="stable"))[dense], name


def _leiden(upper: Any, nodes: int, resolution: float, seed: int) -> NDArray[np.int64]:
    """Traag et al. 2019, on modularity."""
    import random

    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    graph = igraph.Graph(nodes, list(zip(upper.row.tolist(), upper.col.tolist(), strict=True)))
    partition = graph.community_leiden(
        "modularity", weights=upper.data.tolist(), resolution=resolution, n_iterations=-1
    )
    return np.array(partition.membership)


def _louvain(upper: Any, nodes: int, resolution: float, seed: int) -> NDArray[np.int64]:
    """Blondel et al. 2008."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(nodes))
    graph.add_weighted_edges_from(zip(upper.row.tolist(), upper.col.tolist(), upper.data.tolist(), strict=True))
    out = np.zeros(nodes, np.int64)
    for number, members in enumerate(networkx.community.louvain_communities(graph, resolution=resolution, seed=seed)):
        out[list(members)] = number
    return out


def agreement(a: NDArray, b: NDArray) -> float:
    """(n,), (n,) labels -> the adjusted Rand index: 1 the same partition, 0 as much as chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))


def project(points: NDArray[np.float32], how: Projection, seed: int) -> NDArray[np.float32]:
    """(n, d) -> (n, 2): the first two columns, t-SNE, or UMAP where umap-learn is installed."""
    if how == "pca":
        return points[:, :2] if points.shape[1] > 1 else np.concatenate([points, np.zeros_like(points)], 1)
    if how == "umap":
        if not installed("umap"):
            raise ConfigError('UMAP needs umap-learn: pip install "cellvision[rna]", or use the projection tsne')
        import umap

        return umap.UMAP(random_state=seed % 2**32, n_jobs=1).fit_transform(points).astype(np.float32)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, max(1.0, (len(points) - 1) / 3.5))
    return TSNE(perplexity=perplexity, random_state=seed % 2**32, n_jobs=1).fit_transform(points).astype(np.float32)


def markers(values: NDArray[np.float32], cluster: NDArray[np.int64], names: NDArray, top: int) -> Any:
    """Genes of each cluster by Welch's t against all other cells: a table with differences and shares of cells.

    values (n, genes) log-normalised. Where the clusters were found on these values, the p values are too small.
    """
    import pandas as pd
    from scipy.stats import false_discovery_control, ttest_ind_from_stats

    tables = []
    for number in np.unique(cluster):
        inside, outside = values[cluster == number], values[cluster != number]
        if min(len(inside), len(outside)) < 2:
            continue
        stats: list[Any] = [
            statistic for cells in (inside, outside) for statistic in (cells.mean(0), cells.std(0, ddof=1), len(cells))
        ]
        score, p = ttest_ind_from_stats(*stats, equal_var=False)
        score, p = np.nan_to_num(score), np.nan_to_num(p, nan=1.0)
        best = np.argsort(-score, kind="stable")[:top]
        tables.append(
            pd.DataFrame(
                {
                    "cluster": number, "gene": names[best], "t": score[best],
                    "difference": (stats[0] - stats[3])[best], "share_inside": (inside[:, best] > 0).mean(0),
                    "share_outside": (outside[:, best] > 0).mean(0), "q": false_discovery_control(p)[best],
                }
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"cluster": [], "gene": []})
