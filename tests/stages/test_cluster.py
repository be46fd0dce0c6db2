"""cluster: circular labels are recognised, clusters of noise vanish when counts are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from small_counts import chain

from cellvision import cluster, finetune, plan
from cellvision.branches.rna.branch import cluster_derived
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.rng import generator


@pytest.mark.parametrize(
    ("table", "circular"),
    [
        ({"leiden": list("0011")}, True),
        ({"seurat_clusters": list("0011")}, True),
        ({"target": ["cluster_12", "cluster_7", "cluster_7", "cluster_12"]}, True),
        ({"target": list("aabb") * 3, "RNA_snn_res.0.5": list("0011") * 3}, True),
        ({"target": list("abab") * 3, "RNA_snn_res.0.5": list("0011") * 3}, False),
        ({"donor": list("aabb")}, False),
    ],
)
def test_labels_made_by_clustering_are_recognised(table: dict[str, list[str]], circular: bool) -> None:
    assert bool(cluster_derived(pd.DataFrame(table), next(iter(table)))) == circular


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts without structure: 240 cells of 24 donors, 300 genes, every cell drawn from the same rates."""
    rng = generator(1, "noise")
    counts_ = rng.poisson(rng.gamma(1.0, 1.5, 300), (240, 300)).astype(np.float32)
    obs = pd.DataFrame({"donor": [f"d{n // 10}" for n in range(240)]}, index=[f"c{n}" for n in range(240)])
    path = tmp_path_factory.mktemp("noise") / "noise.h5ad"
    anndata.AnnData(csr_matrix(counts_), obs=obs, var=pd.DataFrame(index=[f"g{n}" for n in range(300)])).write_h5ad(
        path
    )
    return path


def clustered(path: Path, out: Path, **branch: Any) -> Path:
    settings = {"items": path, "branch": {"name": "rna", **branch}, "method": "louvain", "markers": 3, "repeats": 1}
    cluster.run(build(cluster.Config, settings | {"projections": ("pca",), "components": 10}), out)
    return out


def score_of_clusters(path: Path, out: Path, steps: int, baselines: bool = True, **branch: Any) -> dict[str, Any]:
    cfg: dict[str, Any] = {
        "items": path,
        "splits": out.with_name("plan") / "splits.csv",
        "branch": {"name": "rna", **branch},
        "target": "cluster",
        "unit": "donor",
        "encoder": "mlp-32",
    }
    loop = {"steps": steps, "batch": 64, "lr": 0.01}
    return chain(finetune, out, **cfg, loop=loop, tune="whole", baselines=baselines)


def test_clusters_of_noise_are_called_circular_and_vanish_when_counts_are_split(noise: Path, tmp_path: Path) -> None:
    chain(plan, tmp_path / "plan", noise, target="group", folds=2)
    whole = clustered(noise, tmp_path / "whole")
    circular = score_of_clusters(noise, tmp_path / "circular", steps=2, metadata=(whole,))
    assert any(stamp.startswith("circular: labels 'cluster'") for stamp in circular["stamps"])
    half = clustered(noise, tmp_path / "half", half="first")
    split = score_of_clusters(noise, tmp_path / "split", steps=60, metadata=(half,), half="second")
    assert split["stamps"] == ["labels 'cluster' were clustered on the first half of the counts, scored on the other"]
    same = score_of_clusters(noise, tmp_path / "same", 2, baselines=False, metadata=(half,), half="first")
    assert any(stamp.startswith("circular") for stamp in same["stamps"])
    assert circular["baseline_logistic"] > split["baseline_logistic"] + 0.2
    for name in ("balanced_accuracy", "baseline_logistic", "baseline_forest"):
        assert split[name] < split["chance"] + 0.12, name


def test_clusters_find_true_kinds_even_on_one_half(expression: Path, tmp_path: Path) -> None:
    settings = {"items": expression, "branch": {"name": "rna", "half": "first"}, "target": "kind", "resolution": 0.3}
    cluster.run(build(cluster.Config, settings | {"unit": "donor", "method": "louvain"}), tmp_path / "run")
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["ari"] > max(0.7, found["ari_by_lot"])
    assert found["stability_ari"] > 0.5
    markers = pd.read_csv(tmp_path / "run" / "markers.csv")
    first = markers.groupby("cluster").head(3)["gene"]
    assert set(first) <= {f"g{number:03d}" for number in range(6)}
    for name in ("pca.png", "tsne.png", "quality.png", "markers.png", "projection.parquet", "genes.csv"):
        assert (tmp_path / "run" / name).stat().st_size > 100, name
