"""rna: what the values are, joins and filters, subsamples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from small_counts import CELLS, GENES, NAMES, SYMBOLS, h5ad, opened, raw

from cellvision.branches.rna import cellset
from cellvision.branches.rna import metadata as celltables
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.core.rng import generator

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
    with pytest.raises(ConfigError, match="only whole counts can be split"):
        opened(path, half="first")
