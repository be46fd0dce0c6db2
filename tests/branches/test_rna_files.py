"""rna: every kind of file is read the same, and what is none is refused."""

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
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix
from small_counts import CELLS, GENES, NAMES, SYMBOLS, h5ad, opened, raw

from cellvision.branches.rna import counts
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput


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
    with pytest.raises(ConfigError, match=r"barcodes\.tsv is empty"):
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
        ("a.csv", b"cell\nA\nB\n", NoUsableInput, "no numeric column"),
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
