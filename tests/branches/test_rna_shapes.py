"""rna: the shapes in which people download, export and convert one matrix give one set of cells."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from small_counts import CELLS, GENES, NAMES, SYMBOLS, h5ad, opened, raw

from cellvision.branches import BRANCHES
from cellvision.branches.rna import counts, kinds
from cellvision.core.errors import ConfigError
from cellvision.evidence import splits, targets

BARCODES = [f"AAAC{number:04d}-1" for number in range(CELLS)]
ENSEMBL = [f"ENSG{number:011d}" for number in range(GENES)]


def notes(branch: Any) -> str:
    return "\n".join(branch.items.facts["notes"])


# -- tables of text --


def table(values: NDArray, cells: list[str], genes: list[str]) -> Any:
    return pd.DataFrame(values.astype(int), cells, genes)


def r_style(frame: Any) -> str:
    """R's write.table: the header is one name short."""
    head, _, rest = frame.to_csv(sep=" ").partition("\n")
    return f"{head.strip()}\n{rest}"


WAYS: dict[str, tuple[list[str], list[str], Callable[[Any], str]]] = {
    "genes in rows, empty corner": (BARCODES, ENSEMBL, lambda t: t.T.to_csv()),
    "genes in rows, R's header": (BARCODES, ENSEMBL, lambda t: r_style(t.T)),
    "genes in rows, symbols": (BARCODES, [*SYMBOLS[:-3], "ACTB", "MT-CO1", "GAPDH"], lambda t: t.T.to_csv()),
    "genes in rows, named": (NAMES, SYMBOLS, lambda t: t.T.rename_axis("gene_symbol").to_csv(sep="\t")),
    "genes in rows, Drop-seq": (NAMES, SYMBOLS, lambda t: t.T.rename_axis("GENE").to_csv(sep="\t")),
    "genes in rows, points for dashes": (
        [f"X{name.replace('-', '.')}" for name in BARCODES], ENSEMBL, lambda t: t.T.to_csv(),
    ),
    "cells in rows, empty corner": (BARCODES, ENSEMBL, lambda t: t.to_csv()),
    "cells in rows, R's header": (BARCODES, SYMBOLS, r_style),
    "cells in rows, named": (NAMES, SYMBOLS, lambda t: t.rename_axis("cell_id").to_csv(sep=";")),
    "cells in rows, described": (NAMES, SYMBOLS, lambda t: t.assign(kind="a").to_csv()),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_cells_and_genes_are_told_apart_whichever_stands_in_the_rows(values: NDArray, tmp_path: Path, way: str) -> None:
    cells, genes, write = WAYS[way]
    (tmp_path / "t.txt").write_text(write(table(values, cells, genes)))
    branch = opened(tmp_path / "t.txt")
    assert list(branch.items.table["item_id"]) == cells
    assert list(branch.data.genes) == genes
    np.testing.assert_array_equal(raw(branch), values)


def test_where_no_name_tells_rows_from_columns_it_is_asked(values: NDArray, tmp_path: Path) -> None:
    frame = table(values, NAMES, SYMBOLS)
    frame.T.to_csv(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match=r"called 'G0', its columns 'c0'; say --branch.orient cells or genes"):
        opened(tmp_path / "t.csv")
    np.testing.assert_array_equal(raw(opened(tmp_path / "t.csv", orient="genes")), values)
    frame.to_csv(tmp_path / "u.csv")
    np.testing.assert_array_equal(raw(opened(tmp_path / "u.csv", orient="cells")), values)


def test_labels_of_a_table_are_no_genes_and_stay_as_written(values: NDArray, tmp_path: Path) -> None:
    odd = ["NA", "None", "001", "1e5", "True"]
    frame = table(values, BARCODES, SYMBOLS).assign(
        kind=[odd[n % 5] for n in range(CELLS)], code=[f"{n % 3:02d}" for n in range(CELLS)], flag=np.arange(CELLS) > 9
    )
    frame.to_csv(tmp_path / "t.csv")
    branch: Any = BRANCHES.build({"name": "rna"}, path=tmp_path / "t.csv", reserved=("kind", "code"))
    assert list(branch.data.genes) == SYMBOLS
    assert set(targets.read(branch.items, "kind").classes) == set(odd)
    assert branch.items.table["code"].tolist() == frame["code"].tolist()
    assert branch.items.table["flag"].tolist() == ["False"] * 10 + ["True"] * 20
    assert "'NA' is a label of 'kind' (6 cells), and no gap" in notes(branch)


def test_joined_labels_stay_as_written(values: NDArray, tmp_path: Path) -> None:
    pd.DataFrame({"barcode": NAMES, "kind": ["NA", "None", "null"] * 10}).to_csv(tmp_path / "m.csv", index=False)
    branch = opened(h5ad(tmp_path / "a.h5ad", csr_matrix(values)), metadata=(tmp_path / "m.csv",))
    assert set(targets.read(branch.items, "kind").classes) == {"NA", "None", "null"}


# -- what values are --


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda x, rng: x + np.where(rng.random(x.shape) < 0.1, 0.37, 0) * (x > 0), "not whole"),
        (lambda x, rng: x * 40 * (1 - 0.1 * rng.random(x.shape)), "not whole"),
        (lambda x, rng: np.where(rng.random(x.shape) < 0.2, x / 2, x), "not whole"),
    ],
    ids=["salmon", "a soup taken off", "halves"],
)
def test_counts_that_are_not_whole_are_counts(
    values: NDArray, tmp_path: Path, made: Callable[..., Any], said: str
) -> None:
    shares = made(values, np.random.default_rng(0)).astype(np.float32)
    branch = opened(h5ad(tmp_path / "a.h5ad", csr_matrix(shares)))
    assert branch.data.kind == "counts"
    assert said in notes(branch)
    total = shares.sum(1, keepdims=True)
    expected = np.log1p(shares / np.maximum(total, 1) * 1e4)
    np.testing.assert_allclose(branch.normalised(np.arange(CELLS)).toarray(), expected, rtol=1e-4)
    with pytest.raises(ConfigError, match="only whole counts"):
        opened(tmp_path / "a.h5ad", half="first")


def test_logs_of_counts_as_they_are_remain_logs(values: NDArray) -> None:
    assert kinds.kind_of(csr_matrix(np.log2(1 + values)))[0] == "log2"
    lengths = np.random.default_rng(0).uniform(1, 9, GENES)  # TPM: one total a cell, no common divisor
    tpm = values / lengths / (values / lengths).sum(1, keepdims=True) * 1e6
    assert kinds.kind_of(csr_matrix(tpm))[0] == "normalised"


def tutorial(tmp_path: Path, values: NDArray, layers: Any = None, raw_log: bool = True) -> Path:
    """X scaled on some genes, raw logged, as tutorials leave it; the last two genes are mitochondrial."""
    genes = [*SYMBOLS[:-2], "MT-CO1", "MT-ND1"]
    log = np.log1p(values / values.sum(1, keepdims=True) * 1e4).astype(np.float32)
    whole = anndata.AnnData(log, pd.DataFrame(index=NAMES), pd.DataFrame(index=genes), layers=layers)
    if raw_log:
        whole.raw = whole
    part = whole[:, 4:].copy()
    part.X = ((part.X - part.X.mean(0)) / part.X.std(0)).astype(np.float32)
    part.write_h5ad(tmp_path / "a.h5ad")
    return tmp_path / "a.h5ad"


def test_mitochondrial_shares_are_of_counts_then_of_logs_and_never_of_scaled_values(
    values: NDArray, tmp_path: Path
) -> None:
    expected = values[:, -2:].sum(1) / values.sum(1)
    from_log = opened(tutorial(tmp_path, values))
    assert from_log.data.kind == "log1p"
    assert "X holds scaled values, so the log1p in 'raw' are used" in notes(from_log)
    np.testing.assert_allclose(from_log.items.table["qc_mito"], expected, rtol=1e-4)
    kept = opened(tmp_path / "a.h5ad", max_mito=float(np.median(expected)) + 1e-4)
    assert len(kept.items.table) == (expected <= np.median(expected) + 1e-4).sum()
    from_counts = opened(tutorial(tmp_path, values, {"counts": values}))
    assert from_counts.data.kind == "counts"
    np.testing.assert_allclose(from_counts.items.table["qc_mito"], values[:, -2:].sum(1) / values[:, 4:].sum(1))
    scaled = opened(tutorial(tmp_path, values, raw_log=False), max_mito=0.01)
    assert scaled.data.kind == "scaled"
    assert len(scaled.items.table) == CELLS
    assert scaled.items.table["qc_mito"].isna().all()


def test_raw_of_an_old_h5ad_is_read(values: NDArray, tmp_path: Path) -> None:
    log = np.log1p(values / values.sum(1, keepdims=True) * 1e4).astype(np.float32)
    with h5py.File(tmp_path / "old.h5ad", "w") as handle:
        handle["X"] = (log - log.mean(0))[:, :5]
        for name, genes in (("var", SYMBOLS[:5]), ("raw.var", SYMBOLS)):
            handle[name] = np.array([(gene.encode(),) for gene in genes], dtype=[("index", "S8")])
        handle["obs"] = np.array([(name.encode(),) for name in NAMES], dtype=[("index", "S8")])
        handle["raw.X"] = values
    branch = opened(tmp_path / "old.h5ad")
    assert list(branch.data.genes) == SYMBOLS
    np.testing.assert_array_equal(raw(branch), values)


@pytest.mark.parametrize("column", ["symbol", "gene_symbols", "feature_name", "gene_name", "Symbol"])
def test_symbols_are_shown_for_ensembl_ids_and_ids_align(values: NDArray, tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.h5ad"
    symbols = [*SYMBOLS[:-1], "G0"]
    var = pd.DataFrame({"biotype": "coding", column: symbols}, index=ENSEMBL)
    anndata.AnnData(csr_matrix(values), pd.DataFrame(index=NAMES), var).write_h5ad(path)
    branch = opened(path)
    shown = branch.feature_names(branch.fit(np.arange(CELLS)))
    assert shown[1:-1] == SYMBOLS[1:-1]
    assert shown[0] == f"G0 ({ENSEMBL[0]})"
    assert branch.schema()["features"] == ENSEMBL
    assert opened(h5ad(tmp_path / "b.h5ad", csr_matrix(values))).data.symbols() == {}


# -- 10x --


def tenx(folder: Path, values: NDArray, prefix: str = "", columns: int = 3, genes: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    rows = zip(genes or ENSEMBL, SYMBOLS, ["Gene Expression"] * GENES, strict=True)
    named = "features" if columns == 3 else "genes"
    text = "\n".join("\t".join(row[:columns]) for row in rows)
    (folder / f"{prefix}{named}.tsv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / f"{prefix}barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(BARCODES).encode()))
    buffer = io.BytesIO()
    scipy.io.mmwrite(buffer, coo_matrix(values.T.astype(int)))
    (folder / f"{prefix}matrix.mtx.gz").write_bytes(gzip.compress(buffer.getvalue()))
    return folder


@pytest.mark.parametrize("prefix", ["", "GSM1_S1_", "GSM1.S1.", "GSM1-S1-"])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_10x_files_are_found_behind_a_prefix(values: NDArray, tmp_path: Path, prefix: str, columns: int) -> None:
    branch = opened(tenx(tmp_path / "a", values, prefix, columns))
    np.testing.assert_array_equal(raw(branch), values)
    by_file = opened(tmp_path / "a" / f"{prefix}matrix.mtx.gz")
    assert list(by_file.items.table["item_id"]) == BARCODES


@pytest.mark.parametrize("folders", [False, True], ids=["prefixes", "folders"])
def test_samples_of_one_folder_are_units(values: NDArray, tmp_path: Path, folders: bool) -> None:
    other = [*ENSEMBL[:-1], "ENSG99999999999"]
    for number, genes in ((1, ENSEMBL), (2, ENSEMBL), (3, other)):
        folder, prefix = (f"S{number}", "") if folders else ("", f"S{number}_")
        tenx(tmp_path / folder, values * number, prefix, genes=genes)
    branch = opened(tmp_path)
    assert branch.items.table["unit"].tolist() == ["S1"] * CELLS + ["S2"] * CELLS + ["S3"] * CELLS
    assert branch.items.table["item_id"].iloc[-1] == f"S3_{BARCODES[-1]}"
    assert splits.resolve(branch.items, None, None, None).table["unit"].nunique() == 3
    np.testing.assert_array_equal(raw(branch), np.concatenate([values * n for n in (1, 2, 3)])[:, :-1])
    assert "1 genes that not all samples have are left out" in notes(branch)


def test_samples_that_share_no_gene_are_refused(values: NDArray, tmp_path: Path) -> None:
    tenx(tmp_path, values, "a_")
    tenx(tmp_path, values, "b_", genes=[f"ENSMUSG{n:011d}" for n in range(GENES)])
    with pytest.raises(ConfigError, match=r"share no gene; their first ones are a 'ENSG0+', b 'ENSMUSG0+'"):
        counts.read(tmp_path)


def test_a_10x_folder_lacks_a_file_by_name(values: NDArray, tmp_path: Path) -> None:
    tenx(tmp_path, values, "a_")
    (tmp_path / "a_barcodes.tsv.gz").unlink()
    with pytest.raises(ConfigError, match=r"has no barcodes.tsv\[.gz\] beside a_features.tsv.gz, a_matrix.mtx.gz"):
        counts.read(tmp_path)


def test_a_10x_h5_of_two_genomes_has_the_genes_of_both(values: NDArray, tmp_path: Path) -> None:
    genes = [*SYMBOLS[:-1], "MT-CO1"]
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        for genome, times in (("GRCh38", 1), ("mm10", 3)):
            group, matrix = handle.create_group(genome), csr_matrix(values * times)
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
            group["shape"], group["barcodes"] = (GENES, CELLS), np.array(BARCODES, "S16")
            group["genes"], group["gene_names"] = np.array(ENSEMBL, "S16"), np.array(genes, "S8")
    branch = opened(tmp_path / "a.h5")
    np.testing.assert_array_equal(raw(branch), np.concatenate([values, values * 3], 1))
    assert branch.data.genes[GENES] == f"mm10_{ENSEMBL[0]}"
    assert set(branch.items.table["genome"]) == {"mm10"}
    mito = (values[:, -1] * 4) / (values.sum(1) * 4)
    np.testing.assert_allclose(branch.items.table["qc_mito"], mito, rtol=1e-6)
