"""rna: readers, what the values are, joins and filters, genes, circular labels, the whole chain."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix

from cellvision import ablate, cluster, embed, finetune, importance, plan, predict, pretrain, report
from cellvision.branches import BRANCHES
from cellvision.branches.rna import cellset, counts
from cellvision.branches.rna import genes as rna_genes
from cellvision.branches.rna import metadata as celltables
from cellvision.branches.rna import networks as rna_networks
from cellvision.branches.rna.branch import cluster_derived
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.core.rng import generator
from cellvision.models import encoders, neighbours

CELLS, GENES = 30, 12
NAMES = [f"c{number}" for number in range(CELLS)]
SYMBOLS = [f"G{number}" for number in range(GENES)]


@pytest.fixture(scope="module")
def values() -> NDArray[np.float32]:
    """Counts of 30 cells by 12 genes, no cell empty."""
    found = generator(0, "counts").poisson(1.5, (CELLS, GENES)).astype(np.float32)
    found[:, 0] += 1
    return found


def h5ad(path: Path, matrix: Any, names: Any = None, genes: Any = None, **more: Any) -> Path:
    obs = pd.DataFrame(index=pd.Index(NAMES[: matrix.shape[0]] if names is None else names))
    var = pd.DataFrame(index=pd.Index(SYMBOLS[: matrix.shape[1]] if genes is None else genes))
    anndata.AnnData(matrix, obs=obs, var=var, **more).write_h5ad(path)
    return path


def opened(path: Path, **options: Any) -> Any:
    return BRANCHES.build({"name": "rna", **options}, path=path)


def raw(branch: Any) -> NDArray[np.float32]:
    return branch.data.take(np.arange(branch.data.shape[0])).toarray()


# -- readers --


@pytest.mark.parametrize("make", [csr_matrix, csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_h5ad_reads_the_same_however_it_is_stored(
    values: NDArray, tmp_path: Path, make: Callable[..., Any], backed: bool, dtype: str
) -> None:
    found = counts.read(h5ad(tmp_path / "a.h5ad", make(values.astype(dtype))), backed=backed)
    rows = np.array([7, 3, 3, 29, 0])
    np.testing.assert_array_equal(found.matrix.take(rows).toarray(), values[rows])
    assert found.facts["backed"] == (backed and make is not csc_matrix)
    assert list(found.genes) == SYMBOLS
    assert list(found.cells.index) == NAMES


def test_auto_layer_prefers_counts(values: NDArray, tmp_path: Path) -> None:
    logged = np.log1p(values / values.sum(1, keepdims=True) * 1e4)
    path = h5ad(tmp_path / "a.h5ad", csr_matrix(logged), layers={"counts": csr_matrix(values)})
    branch = opened(path)
    assert branch.data.kind == "counts"
    assert any("the counts in 'counts' are used" in note for note in branch.items.facts["notes"])
    np.testing.assert_array_equal(raw(branch), values)
    assert opened(path, layer="X").data.kind == "log1p"
    with pytest.raises(ConfigError, match="no layer 'other'"):
        opened(path, layer="other")


def test_raw_of_h5ad_keeps_its_own_genes(values: NDArray, tmp_path: Path) -> None:
    whole = anndata.AnnData(csr_matrix(values), obs=pd.DataFrame(index=NAMES), var=pd.DataFrame(index=SYMBOLS))
    part = whole[:, :5].copy()
    part.X = np.log1p(part.X.toarray() / 7.3)
    part.raw = whole
    part.write_h5ad(tmp_path / "a.h5ad")
    branch = opened(tmp_path / "a.h5ad")
    assert list(branch.data.genes) == SYMBOLS
    np.testing.assert_array_equal(raw(branch), values)


def test_h5ad_from_before_version_07_is_read(values: NDArray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5ad", "w") as handle:
        matrix = csr_matrix(values)
        group = handle.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", values.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        obs = np.zeros(CELLS, dtype=[("index", "S8"), ("kind", "i1"), ("depth", "f4")])
        obs["index"], obs["kind"] = NAMES, np.arange(CELLS) % 2
        handle["obs"], handle["uns/kind_categories"] = obs, np.array([b"exc", b"inh"])
        handle["var"] = np.array([(name.encode(),) for name in SYMBOLS], dtype=[("index", "S8")])
    branch = opened(tmp_path / "old.h5ad")
    assert list(branch.items.table["kind"])[:3] == ["exc", "inh", "exc"]
    assert list(branch.data.genes) == SYMBOLS
    np.testing.assert_array_equal(raw(branch), values)


def write_10x(folder: Path, values: NDArray, kinds: list[str] | None = None) -> Path:
    folder.mkdir()
    scipy.io.mmwrite(folder / "matrix.mtx", csc_matrix(values.T))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(NAMES).encode()))
    kinds = kinds or ["Gene Expression"] * GENES
    lines = [
        f"ENSG{number:03d}\t{name}\t{kind}" for number, (name, kind) in enumerate(zip(SYMBOLS, kinds, strict=True))
    ]
    (folder / "features.tsv").write_text("\n".join(lines))
    return folder


def test_10x_folder_is_read_and_antibodies_are_left_out(values: NDArray, tmp_path: Path) -> None:
    branch = opened(write_10x(tmp_path / "a", values, ["Gene Expression"] * 10 + ["Antibody Capture"] * 2))
    np.testing.assert_array_equal(raw(branch), values[:, :10])
    assert branch.data.genes[3] == "ENSG003"
    assert branch.data.aliases["symbol"][3] == "G3"
    assert any("2 features are no genes" in note for note in branch.items.facts["notes"])


def test_10x_folder_with_a_wrong_number_of_lines_is_refused(values: NDArray, tmp_path: Path) -> None:
    folder = write_10x(tmp_path / "a", values)
    (folder / "features.tsv").write_text("ENSG0\tG0\n")
    with pytest.raises(ConfigError, match=r"features.tsv has 1 lines"):
        opened(folder)


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5_is_read(values: NDArray, tmp_path: Path, version: int) -> None:
    matrix = csr_matrix(values)
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        group = handle.create_group("matrix" if version == 3 else "GRCh38")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = (GENES, CELLS), np.array(NAMES, "S8")
        named = ("features/id", "features/name") if version == 3 else ("genes", "gene_names")
        group[named[0]], group[named[1]] = np.array([f"E{name}" for name in SYMBOLS], "S8"), np.array(SYMBOLS, "S8")
    np.testing.assert_array_equal(raw(opened(tmp_path / "a.h5")), values)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("orient", ["cells", "genes"])
def test_csv_is_read_both_ways_round(values: NDArray, tmp_path: Path, separator: str, orient: str) -> None:
    table = pd.DataFrame(values.astype(int), NAMES, SYMBOLS)
    if orient == "cells":
        table = table.assign(donor=[f"d{number % 3}" for number in range(CELLS)])
    else:
        table = table.T.rename_axis("gene")
    table.to_csv(tmp_path / "a.csv", sep=separator, encoding="utf-8-sig")
    branch = opened(tmp_path / "a.csv")
    np.testing.assert_array_equal(raw(branch), values)
    assert list(branch.items.table["item_id"]) == NAMES
    assert ("donor" in branch.items.table) == (orient == "cells")


def test_csv_with_decimal_commas_and_twin_genes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("cell;g;g;h\nA;1,5;2;0\nB;0,5;3,5;1\n")
    found = counts.read(tmp_path / "a.csv")
    assert found.genes.tolist() == ["g", "g", "h"]
    np.testing.assert_array_equal(found.matrix.take(np.arange(2)).toarray(), [[1.5, 2, 0], [0.5, 3.5, 1]])


def test_a_10x_folder_without_barcodes_is_one_line(tmp_path: Path) -> None:
    for name, text in (("features.tsv", "g1\tG1\n"), ("barcodes.tsv", ""), ("matrix.mtx", "")):
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="cannot read the 10x folder"):
        counts.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("a.h5ad", b"no hdf5 at all", NoUsableInput, "HDF5"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n" + b"\0" * 40, NoUsableInput, "HDF5"),
        ("a.pkl", b"x", UnsafeInput, "hold code"),
        ("a.docx", b"x", ConfigError, "cannot tell what"),
        ("a.csv", b"a,b\nx,y\n", NoUsableInput, "no numeric column"),
        ("a.csv", b"", NoUsableInput, "is empty"),
        ("a.csv", b"c,g,h\nA,1,2\nB,1,x7\nC,1,2\n", ConfigError, "line 3, column 'h': 'x7' is no number"),
        ("a.csv", b"c,g,h\nA,1,2\nB,1,2,3\n", ConfigError, "header has 3 fields, but line 3 has 4"),
    ],
)
def test_what_is_no_expression_is_refused(
    tmp_path: Path, name: str, content: bytes, error: type[Exception], said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=said):
        opened(tmp_path / name)


def test_a_truncated_h5ad_is_refused(expression: Path, tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_bytes(expression.read_bytes()[:-3000])
    with pytest.raises(NoUsableInput, match="cut off"):
        opened(tmp_path / "a.h5ad")


@pytest.mark.parametrize("shape", [(0, GENES), (CELLS, 0)], ids=["no cells", "no genes"])
def test_an_empty_matrix_is_no_usable_input(tmp_path: Path, shape: tuple[int, int]) -> None:
    with pytest.raises(NoUsableInput, match=f"{shape[0]} cells and {shape[1]} genes"):
        opened(h5ad(tmp_path / "a.h5ad", csr_matrix(shape, dtype=np.float32)))


# -- what the values are --


def scaled_counts(values: NDArray) -> NDArray:
    return values / values.sum(1, keepdims=True) * 1e4


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda x: x, "counts"),
        (lambda x: np.log1p(scaled_counts(x)), "log1p"),
        (lambda x: np.log2(1 + scaled_counts(x)), "log2"),
        (scaled_counts, "normalised"),
        (lambda x: (x - x.mean(0)) / x.std(0), "scaled"),
    ],
    ids=["counts", "log1p", "log2", "normalised", "scaled"],
)
def test_the_kind_of_the_values_is_found_and_said(
    values: NDArray, tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[..., Any], kind: str
) -> None:
    branch = opened(h5ad(tmp_path / f"{kind}.h5ad", made(values).astype(np.float32)))
    assert branch.data.kind == kind
    assert kind.removesuffix("1p").removesuffix("2") in capsys.readouterr().err


def test_every_kind_of_values_ends_in_the_same_log_counts(values: NDArray, tmp_path: Path) -> None:
    expected = np.log1p(scaled_counts(values))
    for number, made in enumerate((values, scaled_counts(values), expected, np.log2(1 + scaled_counts(values)))):
        branch = opened(h5ad(tmp_path / f"{number}.h5ad", made.astype(np.float32)))
        np.testing.assert_allclose(branch.normalised(np.arange(CELLS)).toarray(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("bad", "said"),
    [(np.nan, "cell 'c4' has the value nan for gene 'G2'"), (np.inf, "value inf"), (-3.0, "negative whole numbers")],
)
def test_impossible_values_are_named(values: NDArray, tmp_path: Path, bad: float, said: str) -> None:
    spoilt = values.copy()
    spoilt[4, 2] = bad
    with pytest.raises(ConfigError, match=said):
        opened(h5ad(tmp_path / "a.h5ad", csr_matrix(spoilt)))


def test_repeated_genes_are_added_up_and_repeated_cells_numbered(values: NDArray, tmp_path: Path) -> None:
    genes, names = [*SYMBOLS[:-1], "G0"], ["c0", "c0", *NAMES[2:]]
    branch = opened(h5ad(tmp_path / "a.h5ad", csr_matrix(values), names, genes))
    assert list(branch.data.genes) == SYMBOLS[:-1]
    np.testing.assert_array_equal(raw(branch)[:, 0], values[:, 0] + values[:, -1])
    np.testing.assert_array_equal(raw(branch)[:, 1:], values[:, 1:-1])
    assert list(branch.items.table["item_id"])[:2] == ["c0", "c0-1"]
    logged = np.log1p(scaled_counts(values)).astype(np.float32)
    assert opened(h5ad(tmp_path / "b.h5ad", logged, names, genes)).data.genes[-1] == "G0-1"


# -- joins, filters, subsamples --


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """The three tables of the Allen atlas: cells of clusters 7 and 8, and others that are not in the data."""
    folder = tmp_path / "atlas"
    folder.mkdir()
    alias = [7 if number % 3 else 8 for number in range(CELLS)]
    cells = pd.DataFrame({"cell_label": [*NAMES, "x1"], "cluster_alias": [*alias, 9], "region": "cortex"})
    cells.iloc[::-1].to_csv(folder / "cell_metadata.csv", index=False)
    clusters = pd.DataFrame({"cluster_alias": [8, 7, 9], "label": ["CS_8", "CS_7", "CS_9"]})
    clusters.to_csv(folder / "cluster.csv", index=False)
    terms = pd.DataFrame({"label": ["CS_7", "CS_8"], "description": ["excitatory", "inhibitory"]})
    terms.to_csv(folder / "cluster_annotation_term.csv", index=False)
    return folder


def test_atlas_tables_are_joined_to_the_term(values: NDArray, tmp_path: Path, atlas: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad", csr_matrix(values), [f"{name}-1" for name in NAMES])
    table = opened(path, metadata=(atlas,)).items.table
    expected = ["inhibitory" if number % 3 == 0 else "excitatory" for number in range(CELLS)]
    assert list(table["description"]) == expected
    kept = opened(path, metadata=(atlas,), keep={"description": ("inhibitory",), "region": ("cortex",)})
    assert list(kept.items.table["item_id"]) == [f"c{number}-1" for number in range(0, CELLS, 3)]
    np.testing.assert_array_equal(raw(kept), values[::3])
    with pytest.raises(ConfigError, match="has no 'astrocyte'"):
        opened(path, metadata=(atlas,), keep={"description": ("astrocyte",)})


def test_unmatched_cells_are_counted_and_unknown_tables_refused(values: NDArray, tmp_path: Path, atlas: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad", csr_matrix(values), [*NAMES[:-2], "new1", "new2"])
    branch = opened(path, metadata=(atlas / "cell_metadata.csv",))
    assert any("2 of 30 cells are not in column 'cell_label'" in note for note in branch.items.facts["notes"])
    assert branch.items.table["region"].isna().sum() == 2
    cells = pd.DataFrame(index=["other"])
    with pytest.raises(ConfigError, match="knows none of the 1 cells"):
        celltables.join(cells, (atlas,))
    with pytest.raises(ConfigError, match="shares no column"):
        celltables.join(pd.DataFrame(index=NAMES), (atlas / "cell_metadata.csv", write_csv(tmp_path / "b.csv", "z\n1")))


def write_csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_quality_filters_count_what_they_leave_out(tmp_path: Path) -> None:
    values = np.ones((CELLS, GENES), np.float32)
    values[0] = 0
    values[1, 3:] = 0
    values[2, -1] = 100
    path = h5ad(tmp_path / "a.h5ad", csr_matrix(values), genes=[*SYMBOLS[:-1], "MT-ND1"])
    branch = opened(path, min_genes=5, max_mito=0.5)
    assert list(branch.items.table["item_id"]) == NAMES[3:]
    assert branch.items.facts["few_genes"] == 2
    assert branch.items.facts["mitochondrial"] == 1
    assert branch.items.facts["sparsity_before"]["cells"] == CELLS
    assert branch.items.facts["sparsity_after"]["nonzero"] == 1
    with pytest.raises(NoUsableInput, match="no cell is left"):
        opened(path, min_genes=13)


def test_subsample_keeps_every_stratum_of_depth() -> None:
    total = generator(0, "depth").permutation(1000).astype(float)
    kept = cellset.by_depth(total, 100, 4, 0)
    assert len(set(kept)) == 100
    assert list(np.bincount((total[kept] // 250).astype(int))) == [25, 25, 25, 25]
    assert np.array_equal(kept, cellset.by_depth(total, 100, 4, 0))
    assert np.array_equal(cellset.by_depth(total[:5], 9, 4, 0), np.arange(5))


def test_halves_of_counts_add_up_and_are_independent() -> None:
    """Known truth: the halves of Poisson counts are uncorrelated, though each correlates with the whole."""
    values = csr_matrix(generator(0, "halves").poisson(3.0, (400, 20)).astype(np.float32))
    names = np.array([f"c{number}" for number in range(400)], object)
    first, second = (cellset.thin(values, names, half).toarray() for half in ("first", "second"))
    np.testing.assert_array_equal(first + second, values.toarray())
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.04
    assert np.corrcoef(first.ravel(), values.toarray().ravel())[0, 1] > 0.6
    shuffled = cellset.thin(values[::-1], names[::-1], "first").toarray()
    np.testing.assert_array_equal(shuffled[::-1], first)


def test_normalised_values_cannot_be_halved(values: NDArray, tmp_path: Path) -> None:
    path = h5ad(tmp_path / "a.h5ad", np.log1p(scaled_counts(values)).astype(np.float32))
    with pytest.raises(ConfigError, match="only counts can be split"):
        opened(path, half="first")


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
    found = chain(
        finetune, tmp_path / "run", expression, encoder=name, tune="whole", loop={"steps": 40, "batch": 32, "lr": 0.01}
    )
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
    notes = new.check(trained.schema())
    assert all(name in notes[0] for name in missing)
    assert new.check(trained.schema()) == notes, "a second check says the same"
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
        opened(tmp_path / "new.h5ad").check(opened(expression).schema())


def test_genes_are_found_by_their_symbol_or_without_version(expression: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(expression)
    schema = opened(expression).schema() | {"features": list(adata.var["symbol"])}
    assert opened(expression).check(schema) == ["genes are matched by column 'symbol'"]
    adata.var_names = [f"{name}.7" for name in adata.var_names]
    adata.write_h5ad(tmp_path / "new.h5ad")
    assert opened(tmp_path / "new.h5ad").check(opened(expression).schema()) == [
        "genes are matched by names without version"
    ]


# -- circular labels --


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


def score_of_clusters(path: Path, out: Path, **branch: Any) -> dict[str, Any]:
    cfg: dict[str, Any] = {
        "items": path,
        "branch": {"name": "rna", **branch},
        "target": "cluster",
        "unit": "donor",
        "encoder": "mlp-32",
    }
    return chain(finetune, out, **cfg, loop={"steps": 60, "batch": 64, "lr": 0.01}, tune="whole")


def test_clusters_of_noise_are_called_circular_and_vanish_when_counts_are_split(noise: Path, tmp_path: Path) -> None:
    whole = clustered(noise, tmp_path / "whole")
    circular = score_of_clusters(noise, tmp_path / "circular", metadata=(whole,))
    assert any(stamp.startswith("circular: labels 'cluster'") for stamp in circular["stamps"])
    half = clustered(noise, tmp_path / "half", half="first")
    split = score_of_clusters(noise, tmp_path / "split", metadata=(half,), half="second")
    assert split["stamps"] == ["labels 'cluster' were clustered on the first half of the counts, scored on the other"]
    same = score_of_clusters(noise, tmp_path / "same", metadata=(half,), half="first")
    assert any(stamp.startswith("circular") for stamp in same["stamps"])
    assert circular["baseline_logistic"] > split["baseline_logistic"] + 0.2
    for name in ("balanced_accuracy", "baseline_logistic", "baseline_forest"):
        assert split[name] < split["chance"] + 0.12, name


def test_clusters_find_true_kinds_even_on_one_half(expression: Path, tmp_path: Path) -> None:
    settings = {"items": expression, "branch": {"name": "rna", "half": "first"}, "target": "kind", "resolution": 0.3}
    cluster.run(build(cluster.Config, settings | {"unit": "donor", "method": "louvain"}), tmp_path / "run")
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["ari"] > 0.7
    assert found["stability_ari"] > 0.5
    markers = pd.read_csv(tmp_path / "run" / "markers.csv")
    first = markers.groupby("cluster").head(3)["gene"]
    assert set(first) <= {f"g{number:03d}" for number in range(6)}
    for name in ("pca.png", "tsne.png", "quality.png", "markers.png", "projection.parquet", "genes.csv"):
        assert (tmp_path / "run" / name).stat().st_size > 100, name


# -- neighbours --


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


# -- importance, and the whole chain --


@pytest.mark.parametrize("model", ["forest", "logistic"])
def test_importance_finds_the_genes_that_matter(expression: Path, tmp_path: Path, model: str) -> None:
    cfg = {
        "items": expression,
        "target": "kind",
        "unit": "donor",
        "model": model,
        "candidates": 15,
        "top": 6,
        "threads": 1,
    }
    chain(plan, tmp_path / "plan", expression, folds=2)
    importance.run(build(importance.Config, cfg | {"splits": tmp_path / "plan" / "splits.csv"}), tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "importance.csv")
    assert set(table["feature"].head(6)) <= {f"g{number:03d}" for number in range(6)} | set(table["feature"].iloc[5:6])
    assert table["importance"].iloc[0] > 0.02
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["top6_jaccard"] > 0.4
    assert found["balanced_accuracy"] > 0.9


def chain(stage: Any, out: Path, path: Path | None = None, **options: Any) -> dict[str, Any]:
    """Run a stage and return its metrics."""
    shared: dict[str, Any] = {"workers": 0, "threads": 1, "device": "cpu"}
    if path is not None:
        shared |= {"items": path, "branch": "rna", "unit": "donor", "target": "kind"}
    known = stage.Config.model_fields
    stage.run(build(stage.Config, {key: value for key, value in (shared | options).items() if key in known}), out)
    return files.read_json(out / "metrics.json")


def test_the_whole_chain_runs_on_counts(expression: Path, tmp_path: Path) -> None:
    planned = chain(plan, tmp_path / "plan", expression)
    assert planned["units"] == 12
    splits = {"splits": tmp_path / "plan" / "splits.csv"}
    ssl = {"method": "simclr", "encoder": "mlp-32-16", "loop": {"steps": 300, "batch": 48, "lr": 0.003}}
    learned = chain(pretrain, tmp_path / "ssl", expression, **splits, **ssl, fold="0")
    assert learned["loss"] < learned["chance"]
    found = chain(embed, tmp_path / "emb", expression, **splits, encoder=str(tmp_path / "ssl"))
    assert found["folds_probed"] == 1
    assert found["linear_balanced_accuracy"] > 0.7
    tuned = chain(
        finetune,
        tmp_path / "ft",
        expression,
        **splits,
        encoder=str(tmp_path / "ssl"),
        fold="0",
        tune="whole",
        loop={"steps": 40, "lr": 0.01},
    )
    assert tuned["balanced_accuracy"] > 0.8
    again = chain(predict, tmp_path / "new", model=tmp_path / "ft" / "model", items=expression)
    assert again["items"] == 120
    arms = {
        "base": {"tune": "whole", "loop": {"steps": 20, "lr": 0.01}},
        "factors": {"encoder": ["mlp-16", "cnn-8"]},
        "seeds": (0,),
    }
    chain(ablate, tmp_path / "ablation", expression, **splits, **arms, folds=2)
    page = tmp_path / "report.html"
    report.run(report.Config(run=tmp_path / "ablation"), page)
    assert "cnn-8" in page.read_text("utf-8")


def test_a_saved_encoder_brings_its_own_genes_and_bins(expression: Path, tmp_path: Path) -> None:
    branch = opened(expression, genes=20)
    made = encoders.resolve("transformer-1x8x2", branch, np.arange(60), 0)
    facts = {"network": made.name, "branch": "rna", "schema": branch.schema(), "seen": [], "origin": ""}
    encoders.save(tmp_path / "one", made.module, made.state, facts)
    other = opened(expression, genes=5, bins=7, target_sum=100.0)
    back = encoders.load(tmp_path / "one", other)
    assert other.cfg.target_sum == 1e4
    for name, value in made.state.items():
        np.testing.assert_array_equal(back.state[name], value)
    rows = np.arange(70, 90)
    np.testing.assert_array_equal(
        encoders.embed(made.module, branch, made.state, rows), encoders.embed(back.module, other, back.state, rows)
    )
