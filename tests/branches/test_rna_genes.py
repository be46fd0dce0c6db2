"""rna: genes, bins, networks, and new data aligned by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from small_counts import CELLS, chain, h5ad, opened

from cellvision import finetune, plan
from cellvision.branches.rna import genes as rna_genes
from cellvision.branches.rna import networks as rna_networks
from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator

# -- genes --


def test_variable_genes_are_those_above_the_trend() -> None:
    rng = generator(0, "variable")
    rate = rng.uniform(1, 5, 60)
    values = rng.poisson(rate, (500, 60)).astype(np.float32)
    values[:, 10:14] = rng.poisson(rate[10:14] * rng.choice([0.1, 3.0], (500, 1)))
    values[:, 20] = 0
    mean, var, seen = rna_genes.moments(csr_matrix(part) for part in np.array_split(values, 3))
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, values.var(0, ddof=1), rtol=1e-5)
    assert set(rna_genes.choose(mean, var, seen, 4, "variable")) == {10, 11, 12, 13}
    assert 20 not in rna_genes.choose(mean, var, seen, 60, "informative")


def test_bins_are_quantiles_of_the_expressed_values() -> None:
    values = np.concatenate([np.zeros(50), np.arange(1, 101)]).astype(np.float32)[:, None]
    state = rna_genes.bin_edges(values, 5)
    share = np.bincount(rna_genes.to_bins(values[:, 0], state["edges"][0]), minlength=5) / 150
    np.testing.assert_allclose(share, [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6], atol=0.01)
    np.testing.assert_allclose(np.exp(state["log_share"]).sum(1), 1, rtol=1e-5)


def fresh_transformer(expression: Path) -> tuple[Any, Any, Any]:
    """What is fitted on sixty cells, their values, and a network that nothing has trained."""
    branch, rows = opened(expression), np.arange(60)
    state = branch.fit(rows)
    return state, branch.batch(rows, state), rna_networks.build("transformer-1x8x2", state)


def test_a_fresh_transformer_holds_the_principal_components(expression: Path) -> None:
    from sklearn.decomposition import PCA

    state, values, network = fresh_transformer(expression)
    with torch.inference_mode():
        found = network.eval()(torch.from_numpy(values))[:, :8].numpy()
    standard = ((values - state["mean"]) / state["std"]).clip(-rna_genes.LIMIT, rna_genes.LIMIT)
    expected = PCA(8, svd_solver="full", whiten=True).fit_transform(standard)
    same = np.abs(np.corrcoef(found.T, expected.T)[:8, 8:])
    np.testing.assert_allclose(np.diag(same), 1, atol=0.02)
    np.testing.assert_allclose(found.std(0), 1, atol=0.1)


def test_network_bins_as_the_fit_does(expression: Path) -> None:
    state, values, network = fresh_transformer(expression)
    slow = np.stack([rna_genes.to_bins(values[:, gene], state["edges"][gene]) for gene in range(values.shape[1])], 1)
    assert np.array_equal(network.bins_of(torch.from_numpy(values)).numpy(), slow)


@pytest.mark.parametrize("name", ["mlp-16-8", "cnn-8-16", "transformer-2x16x4"])
def test_encoders_learn_the_kind_of_a_cell(expression: Path, tmp_path: Path, name: str) -> None:
    chain(plan, tmp_path / "plan", expression, folds=2)
    splits = tmp_path / "plan" / "splits.csv"
    loop = {"steps": 40, "batch": 32, "lr": 0.01}
    found = chain(finetune, tmp_path / "run", expression, splits=splits, encoder=name, tune="whole", loop=loop)
    assert found["balanced_accuracy"] > 0.8
    assert found["balanced_accuracy_units"] == 12
    assert {"baseline_logistic", "baseline_forest", "baseline_depth"} <= set(found)
    assert found["baseline_logistic"] > found["baseline_depth"]


def test_unknown_encoders_and_scaled_bins_are_refused(values: NDArray, tmp_path: Path) -> None:
    branch = opened(h5ad(tmp_path / "a.h5ad", ((values - values.mean(0)) / values.std(0)).astype(np.float32)))
    state = branch.fit(np.arange(CELLS))
    assert branch.network("mlp-8", state)(torch.from_numpy(branch.batch(np.arange(4), state))).shape == (4, 8)
    for name, said in (
        ("transformer-1x8x2", "no bins"),
        ("resnet18", "encoders such as"),
        ("transformer-1x9x2", "multiple"),
    ):
        with pytest.raises(ConfigError, match=said):
            branch.network(name, state)


# -- new data --


def test_genes_are_aligned_by_name_and_missing_ones_listed(expression: Path, tmp_path: Path) -> None:
    trained = opened(expression)
    state = trained.fit(np.arange(60))
    adata = anndata.read_h5ad(expression)
    order = generator(0, "order").permutation(adata.n_vars)[:-4]
    missing = set(adata.var_names) - set(adata.var_names[order])
    adata[:, order].write_h5ad(tmp_path / "new.h5ad")
    new = opened(tmp_path / "new.h5ad")
    notes = new.align(trained.schema())
    assert all(name in notes[0] for name in missing)
    assert new.align(trained.schema()) == notes, "a second check says the same"
    assert new.schema()["features"] == trained.schema()["features"], "what is saved next speaks of the model's genes"
    there = [number for number, gene in enumerate(state["genes"]) if trained.data.genes[gene] not in missing]
    wide = anndata.read_h5ad(expression)[:, [name not in missing for name in adata.var_names]].X.toarray()
    expected = np.log1p(wide / wide.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(new.batch(np.arange(5), state)[:, there], expected[:5], rtol=1e-4)
    assert np.all(np.delete(new.batch(np.arange(5), state), there, axis=1) == 0)


def test_too_few_genes_in_common_are_refused(expression: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(expression)
    adata[:, :30].write_h5ad(tmp_path / "new.h5ad")
    with pytest.raises(ConfigError, match="10 of the model's 40 genes are missing, such as 'g030'"):
        opened(tmp_path / "new.h5ad").align(opened(expression).schema())


def test_genes_are_found_by_their_symbol_or_without_version(expression: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(expression)
    schema = opened(expression).schema() | {"features": list(adata.var["symbol"])}
    assert opened(expression).align(schema) == ["genes are matched by column 'symbol'"]
    adata.var_names = [f"{name}.7" for name in adata.var_names]
    adata.write_h5ad(tmp_path / "new.h5ad")
    assert opened(tmp_path / "new.h5ad").align(opened(expression).schema()) == [
        "genes are matched by names without version"
    ]
