"""Principal components, graphs and communities: known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator
from cellvision.models import neighbours


def test_principal_components_equal_those_of_the_whole_matrix() -> None:
    values = generator(0, "pca").normal(size=(80, 6)).astype(np.float32) @ np.diag([5, 3, 2, 1, 0.5, 0.1]).astype("f4")
    scores, share = neighbours.principal(lambda: iter(np.array_split(values, 7)), 3)
    left, singular, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(scores), np.abs(left[:, :3] * singular[:3]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(share, (singular**2 / (singular**2).sum())[:3], rtol=1e-4)


def test_graph_weights_are_the_shared_neighbours_of_neighbours() -> None:
    points = generator(0, "graph").normal(size=(25, 3)).astype(np.float32)
    graph = neighbours.neighbour_graph(points, 4).toarray()
    distance = ((points[:, None] - points[None]) ** 2).sum(2)
    around = [set(np.argsort(row)[:5]) for row in distance]
    for a in range(25):
        for b in range(25):
            near = a != b and (b in around[a] or a in around[b])
            expected = len(around[a] & around[b]) / len(around[a] | around[b]) if near else 0
            assert graph[a, b] == pytest.approx(expected if expected >= neighbours.FEWEST_SHARED else 0)


def test_communities_of_separate_clouds_are_the_clouds() -> None:
    truth = np.repeat([0, 1, 2], [40, 30, 20])
    points = (generator(0, "clouds").normal(size=(90, 3)) + 20 * truth[:, None]).astype(np.float32)
    found, _ = neighbours.communities(neighbours.neighbour_graph(points, 15), "auto", 0.1, 0)
    assert neighbours.agreement(truth, found) == 1
    assert list(np.bincount(found)) == [40, 30, 20], "the largest is number 0"


def test_missing_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "installed", lambda library: False)
    points = np.zeros((5, 2), np.float32)
    with pytest.raises(ConfigError, match="umap-learn"):
        neighbours.project(points, "umap", 0)
    with pytest.raises(ConfigError, match="igraph"):
        neighbours.communities(csr_matrix((5, 5)), "leiden", 1.0, 0)
