"""The table reader: dialects, ragged rows, numbers of all countries, refused files. Cases D01, D02 and D09."""

from __future__ import annotations

import itertools
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellvision.core import files
from cellvision.core.errors import CellvisionError, ConfigError, NoUsableInput, UnsafeInput
from cellvision.io import csvtables, tables

TRUTH = pd.DataFrame({"name": ["µ1", "b;2", 'say "c"'], "area": [1234.5, 0.25, -3.0], "count": [1, 20, 300]})


def written(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def refusal(path: Path, content: str | bytes, kind: type[CellvisionError] = ConfigError) -> str:
    """The message with which this file is refused; one line."""
    with pytest.raises(kind) as caught:
        tables.read(written(path, content))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- dialects --


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [*itertools.product(",;\t|", ".", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"]),
     *itertools.product(";\t|,", ",", ["utf-8", "utf-16"])],
)  # fmt: skip
def test_every_dialect_gives_the_same_table(tmp_path: Path, separator: str, decimal: str, encoding: str) -> None:
    path = tmp_path / "table.csv"
    TRUTH.to_csv(path, index=False, sep=separator, decimal=decimal, encoding=encoding)
    found = tables.read(path)
    pd.testing.assert_frame_equal(found.frame, TRUTH)
    assert f"decimal {decimal}" in found.notes[0]
    assert found.notes[0].startswith(f"read as encoding {'utf-8' if encoding == 'utf-8-sig' else encoding}"[:20])


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system(tmp_path: Path, ends: str) -> None:
    found = tables.read(written(tmp_path / "t.csv", ends.join(["a,b", "1,2", "3,4", ""])))
    assert found.frame.to_dict("list") == {"a": [1, 3], "b": [2, 4]}


def test_quotes_hold_line_ends_and_separators(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", '"a\nb",c\n"x, y\nz",1\n"",2\n'))
    assert list(found.frame.columns) == ["a\nb", "c"]
    assert found.frame["a\nb"].tolist() == ["x, y\nz", None]


def test_excel_may_name_the_separator_above_the_header(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", "\nsep=;\na;b\n1,5;2\n"))
    assert found.frame.to_dict("list") == {"a": [1.5], "b": [2]}


def test_one_column_needs_no_separator(tmp_path: Path) -> None:
    assert tables.read(written(tmp_path / "t.csv", "area\n0,5\n1,25\n")).frame["area"].tolist() == [0.5, 1.25]


def test_what_is_given_is_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "a;b\n1,234;5\n")
    assert "may be decimal or group thousands" in refusal(path, path.read_bytes())
    assert tables.read(path, decimal=",").frame["a"].tolist() == [1.234]
    assert tables.read(path, decimal=".").frame["a"].tolist() == [1234]
    with pytest.raises(ConfigError, match="the header has 1 fields, but line 2 has 2"):
        tables.read(path, separator=",", decimal=".")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,234.5", "12"], [1234.5, 12]),
        (["1.234,5", "12"], [1234.5, 12]),
        (["1,234,567", "1,234"], [1234567, 1234]),
        (["1.234.567", "1.234"], [1234567, 1234]),
        (["1 234 567", "0.5"], [1234567, 0.5]),
        (["1'234.25", "\u00a02"], [1234.25, 2]),
        (["1.234", "12"], [1.234, 12]),
        (["-1e3", "+.5"], [-1000, 0.5]),
    ],
)
def test_thousands_separators(tmp_path: Path, cells: list[str], values: list[float]) -> None:
    path = written(tmp_path / "t.csv", "a;b\n" + "".join(f"{cell};x\n" for cell in cells))
    assert tables.read(path).frame["a"].tolist() == values


def test_contradicting_decimal_marks_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "t.csv", "a;b\n0,5;1\n1;0.5\n")
    assert "'0,5' (line 2, column 1) has a decimal comma, '0.5' (line 3, column 2) a decimal point" in message


# -- rows and columns --


def test_ragged_rows_are_named_by_line(tmp_path: Path) -> None:
    message = refusal(tmp_path / "t.csv", 'a,b,c\n1,2,3\n"x\ny",5,6\n7,8\n9,10,11\n1,2,3,4\n')
    assert "the header has 3 fields, but line 5 has 2, line 7 has 4" in message


def test_empty_lines_are_no_rows(tmp_path: Path) -> None:
    assert len(tables.read(written(tmp_path / "t.csv", "\na,b\n\n1,2\n\n3,4\n\n")).frame) == 2


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    assert "'a' (columns 1, 3)" in refusal(tmp_path / "t.csv", "a,b,a\n1,2,3\n")


def test_row_names_are_no_feature_and_other_empty_names_are_refused(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", ",a,\n1,2,\n2,3,\n"))
    assert list(found.frame.columns) == [csvtables.INDEX, "a"]
    assert "row names" in " ".join(found.notes)
    assert "1 columns without name and values are left out" in found.notes
    assert "column 3 has values but no name" in refusal(tmp_path / "u.csv", "a,b,\n1,2,3\n")


def test_a_text_among_numbers_is_named_by_line_and_column(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", 'note,area\n"two\nlines",1\nx,2.5\ny,<0.1\nz,NA\n'))
    assert found.faults == {"area": "line 5, column 'area': '<0.1' is no number, but 2 of 3 cells are"}
    assert found.frame["area"].tolist() == ["1", "2.5", "<0.1", None]


def test_identifiers_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", "well,area\n001,0.5\n012,007.5\n"))
    assert found.frame["well"].tolist() == ["001", "012"]
    assert found.frame["area"].tolist() == [0.5, 7.5]
    assert not found.faults


def test_missing_and_infinite_values(tmp_path: Path) -> None:
    found = tables.read(written(tmp_path / "t.csv", "a,b\n1.5,NA\ninf,\n1e999,nan\n-Inf,4\n n/a ,5\n"))
    assert found.frame["a"].isna().tolist() == [False, False, False, False, True]
    assert np.isinf(found.frame["a"]).sum() == 3
    assert found.notes[-1] == "3 values are infinite and count as missing, in 'a'"
    assert found.frame["b"].isna().sum() == 3


def test_a_hundred_thousand_columns(tmp_path: Path) -> None:
    width = 100_000
    lines = [",".join(f"f{n}" for n in range(width))] + [",".join([f"{row}.5"] * width) for row in range(3)]
    begun = time.process_time()
    frame = tables.read(written(tmp_path / "t.csv", "\n".join(lines))).frame
    assert frame.shape == (3, width)
    assert frame.iloc[2].eq(2.5).all()
    assert time.process_time() - begun < 60


def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvtables, "BLOCK", 4096)
    values = np.random.default_rng(0).normal(size=(1000, 5)).round(6)
    words = [f"w{n}" if n > 900 else str(n) for n in range(1000)]  # a number in the first blocks, text in the last
    expected = pd.DataFrame(values, columns=list("abcde")).assign(f=words)
    expected.to_csv(tmp_path / "t.csv", index=False)
    found = tables.read(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(found.frame, expected)
    assert "line 903" in found.faults["f"]


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n", "a,b"])
def test_nothing_to_read(tmp_path: Path, content: str) -> None:
    refusal(tmp_path / "t.csv", content, NoUsableInput)


# -- other files --


def test_parquet_and_csv_are_one_table(tmp_path: Path) -> None:
    TRUTH.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "t.parquet").frame, TRUTH, check_dtype=False)
    assert "cannot read" in refusal(tmp_path / "u.parquet", (tmp_path / "t.parquet").read_bytes()[:-20])


@pytest.mark.parametrize("sparse", [False, True])
def test_h5ad_is_x_beside_obs(tmp_path: Path, sparse: bool) -> None:
    import anndata
    import scipy.sparse

    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    var = pd.DataFrame({"symbol": ["a", "b"]}, index=["g1", "g2"])
    obs = pd.DataFrame({"donor": pd.Categorical(["d1", "d2", "d1"]), "age": [1.0, 2.0, np.nan]}, index=["x", "y", "z"])
    made = anndata.AnnData(scipy.sparse.csr_matrix(values) if sparse else values, obs, var)
    made.write_h5ad(tmp_path / "t.h5ad")
    frame = tables.read(tmp_path / "t.h5ad").frame
    assert list(frame.columns) == [csvtables.INDEX, "donor", "age", "g1", "g2"]
    assert frame["g2"].tolist() == [1, 3, 5]
    assert frame["donor"].tolist() == ["d1", "d2", "d1"]
    assert frame[csvtables.INDEX].tolist() == ["x", "y", "z"]


def test_a_link_out_of_an_h5ad_is_refused_and_not_followed(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["X"] = np.ones((2, 2))
    with h5py.File(tmp_path / "t.h5ad", "w") as bad:
        bad["X"] = h5py.ExternalLink("secret.h5", "X")
    with pytest.raises(UnsafeInput):
        tables.read(tmp_path / "t.h5ad")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".npy", ".npz", ".pt", ".ckpt", ".h5", ".csv"])
def test_pickles_are_refused_whatever_they_are_called(tmp_path: Path, suffix: str) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    message = refusal(tmp_path / f"t{suffix}", pickle.dumps(Bomb()), UnsafeInput)
    assert "CSV, Parquet or h5ad" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.xlsx", b"PK\x03\x04...", "Excel workbook"),
        ("t.csv.gz", b"\x1f\x8b\x08\x00", "damaged gzip"),
        ("t.csv", b"a,b\n\x00\x01\x00\x00,3\n" * 9, "zero bytes"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path / name, content)


def test_hdf5_that_is_no_h5ad_is_refused(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "t.dat", "w") as file:
        file["X"] = np.ones((2, 2))
    with pytest.raises(UnsafeInput, match="pickled objects"):
        tables.read(tmp_path / "t.dat")
    (tmp_path / "t.dat").rename(tmp_path / "t.h5ad")
    with pytest.raises(ConfigError, match="no h5ad file: it has no obs, var"):
        tables.read(tmp_path / "t.h5ad")


# -- export --


@pytest.mark.parametrize("evil", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx", "\rx"])
def test_what_is_exported_runs_in_no_spreadsheet(tmp_path: Path, evil: str) -> None:
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({"group": [evil, "rbc"], "delta": [-1.5, 2.0]}))
    found = tables.read(tmp_path / "t.csv").frame
    assert found["group"].tolist() == [f"'{evil}", "rbc"]
    assert found["delta"].tolist() == [-1.5, 2.0]  # numbers are exempt
    assert files.alive(found["group"][0]) == evil
