"""A hundred odd tables: each ends with exactly these columns and values, or in one line that names what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellvision.core.errors import CellvisionError
from cellvision.io import tables

NAN = float("nan")
Columns = dict[str, list[Any]]

READ: dict[str, tuple[str | bytes, Columns]] = {
    # encodings
    "utf-8 BOM": ("\ufeffa,b\n1,2\n".encode(), {"a": [1], "b": [2]}),
    "utf-16 BOM": ("a,µ\n1,é\n".encode("utf-16"), {"a": [1], "µ": ["é"]}),
    "utf-16-le bare": ("a,b\n1,2\n3,4\n".encode("utf-16-le"), {"a": [1, 3], "b": [2, 4]}),
    "utf-16-be bare": ("a,b\n1,2\n3,4\n".encode("utf-16-be"), {"a": [1, 3], "b": [2, 4]}),
    "latin-1 µ": ("area µm²;x\n1,5;2\n".encode("latin-1"), {"area µm²": [1.5], "x": [2]}),
    "emoji and CJK": ("細胞,🧫\n1,核\n", {"細胞": [1], "🧫": ["核"]}),
    "right to left": ("תא,b\n1,2\n", {"תא": [1], "b": [2]}),
    # separators and line ends
    "semicolons": ("a;b\n1;2\n", {"a": [1], "b": [2]}),
    "tabs": ("a\tb\n1\t2\n", {"a": [1], "b": [2]}),
    "bars": ("a|b\n1|2\n", {"a": [1], "b": [2]}),
    "spaces": ("a b\n1 2\n3 4\n", {"a": [1, 3], "b": [2, 4]}),
    "old Mac line ends": ("a,b\r1,2\r3,4\r", {"a": [1, 3], "b": [2, 4]}),
    "Windows line ends": ("a,b\r\n1,2\r\n", {"a": [1], "b": [2]}),
    "no line end at the end": ("a,b\n1,2", {"a": [1], "b": [2]}),
    "empty lines between": ("a,b\n\n1,2\n\n\n3,4\n\n", {"a": [1, 3], "b": [2, 4]}),
    "Excel's sep line": ("sep=;\na;b\n1;2\n", {"a": [1], "b": [2]}),
    "commas in quotes": ('a,b\n"x, y",1\n', {"a": ["x, y"], "b": [1]}),
    "line ends in quotes": ('"a\nb",c\n"x\ny",1\n', {"a\nb": ["x\ny"], "c": [1]}),
    "quotes in quotes": ('a,b\n"say ""x""",1\n', {"a": ['say "x"'], "b": [1]}),
    "separator given in one row alone": ("a\n1\n2\n", {"a": [1, 2]}),
    # headers
    "comments above": ("# QuPath 0.5\n# µm\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "comment and empty line above": ("# x\n\na,b\n1,2\n", {"a": [1], "b": [2]}),
    "a header that begins with #": ("#chrom,start\nchr1,5\nchr2,6\n", {"#chrom": ["chr1", "chr2"], "start": [5, 6]}),
    "units below": ("area,mean\nµm²,a.u.\n1,2\n3,4\n", {"area": [1, 3], "mean": [2, 4]}),
    "units in brackets below": ("area,t\n(px),(s)\n1,2\n3,4\n", {"area": [1, 3], "t": [2, 4]}),
    "one unit below": ("name,area\n,µm\na,1\nb,2\n", {"name": ["a", "b"], "area": [1, 2]}),
    "two header rows": ("Cells,Cells,Nuclei\narea,n,area\n1,2,3\n4,5,6\n",
                        {"Cells_area": [1, 4], "Cells_n": [2, 5], "Nuclei_area": [3, 6]}),
    "merged header cells": ("Shape,,Dye,\narea,n,mean,max\n1,2,3,4\n5,6,7,8\n",
                            {"Shape_area": [1, 5], "Shape_n": [2, 6], "Dye_mean": [3, 7], "Dye_max": [4, 8]}),
    "no name over row names": (",a\nx,1\ny,2\n", {"index": ["x", "y"], "a": [1, 2]}),
    "Unnamed: 0": ("Unnamed: 0,a\n0,1\n1,2\n", {"index": [0, 1], "a": [1, 2]}),
    "Fiji's space": (" ,Area\n1,5\n2,6\n", {"index": [1, 2], "Area": [5, 6]}),
    "R's short header": ("a,b\nx,1,2\ny,3,4\n", {"index": ["x", "y"], "a": [1, 3], "b": [2, 4]}),
    "separators behind every row": ("a,b,\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}),
    "separators behind the rows alone": ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}),
    "names with spaces around": (" a , b\n1,2\n", {"a": [1], "b": [2]}),
    "a name of 10,000 letters": (f"{'n' * 10_000},b\n1,2\n", {"n" * 10_000: [1], "b": [2]}),
    "names that are numbers": ("1,2\n3,4\n", {"1": [3], "2": [4]}),
    "twins of one content": ("a,b,a\n1,2,1\n", {"a": [1], "b": [2]}),
    "names that differ by case": ("A,a\n1,2\n", {"A": [1], "a": [2]}),
    # numbers
    "decimal commas": ("a;b\n1,5;2\n0,25;3\n", {"a": [1.5, 0.25], "b": [2, 3]}),
    "decimal commas in quotes": ('a,b\n"1,5",2\n"0,25",3\n', {"a": [1.5, 0.25], "b": [2, 3]}),
    "thousands of commas": ("a;b\n1,234,567;x\n12;y\n", {"a": [1234567, 12], "b": ["x", "y"]}),
    "thousands of points": ("a;b\n1.234,5;x\n12,0;y\n", {"a": [1234.5, 12], "b": ["x", "y"]}),
    "thousands of spaces": ("a;b\n1 234;x\n12;y\n", {"a": [1234, 12], "b": ["x", "y"]}),
    "thousands of narrow spaces": ("a;b\n1\u202f234;x\n12;y\n", {"a": [1234, 12], "b": ["x", "y"]}),
    "Swiss thousands": ("a;b\n1'234.5;x\n12;y\n", {"a": [1234.5, 12], "b": ["x", "y"]}),
    "exponents": ("a,b\n1e-3,1E+5\n2e0,3\n", {"a": [0.001, 2], "b": [100000, 3]}),
    "signs": ("a,b\n+1,-2.5\n-0,.5\n", {"a": [1, 0], "b": [-2.5, 0.5]}),
    "point at the end": ("a,b\n1.,2\n", {"a": [1], "b": [2]}),
    "spaces around numbers": ("a,b\n 1 ,  2\n", {"a": [1], "b": [2]}),
    "infinities": ("a,b\ninf,1\n-Inf,2\n", {"a": [np.inf, -np.inf], "b": [1, 2]}),
    "beyond any number": ("a,b\n1e999,1\n2,2\n", {"a": [np.inf, 2], "b": [1, 2]}),
    "huge whole numbers": ("a,b\n9007199254740993,1\n2,2\n", {"a": [9007199254740993.0, 2], "b": [1, 2]}),
    "a number of forty digits": (f"a,b\n{'9' * 40},1\n", {"a": [1e40], "b": [1]}),
    "missing in every word": (
        "a,b\nNA,1\n,2\nNaN,3\nnull,4\nNone,5\nn/a,6\n#N/A,7\n7,8\n", {"a": [NAN] * 7 + [7], "b": [*range(1, 9)]},
    ),
    "a column of nothing": ("a,b\n,1\n,2\n", {"a": [NAN, NAN], "b": [1, 2]}),
    "a column of NA": ("a,b\nNA,1\nNA,2\n", {"a": [NAN, NAN], "b": [1, 2]}),
    # text
    "leading zeros": ("well,b\n001,1\n012,2\n", {"well": ["001", "012"], "b": [1, 2]}),
    "one leading zero": ("well,b\n1,1\n02,2\n", {"well": ["1", "02"], "b": [1, 2]}),
    "hexadecimal ids": ("id,b\n0x1F,1\n00ff,2\n", {"id": ["0x1F", "00ff"], "b": [1, 2]}),
    "uuids": ("id,b\n1e5a0000-0000-4000,1\n", {"id": ["1e5a0000-0000-4000"], "b": [1]}),
    "percent signs": ("a,b\n12%,1\n5 %,2\n", {"a": ["12%", "5 %"], "b": [1, 2]}),
    "dates": ("day,b\n2024-01-02,1\n03.04.2024,2\n", {"day": ["2024-01-02", "03.04.2024"], "b": [1, 2]}),
    "times": ("at,b\n10:30,1\n10:31:05,2\n", {"at": ["10:30", "10:31:05"], "b": [1, 2]}),
    "currencies": ("a,b\n$5,1\n€6,2\n", {"a": ["$5", "€6"], "b": [1, 2]}),
    "truth values": ("a,b\nTrue,1\nFALSE,2\n", {"a": ["True", "FALSE"], "b": [1, 2]}),
    "words for nothing among words": (
        "a,b\nNA,1\nNone,2\nnull,3\nnan,4\nx,5\n,6\n",
        {"a": ["NA", "None", "null", "nan", "x", None], "b": [*range(1, 7)]},
    ),
    "genes that Excel knows as dates": ("gene,b\nSEPT2,1\nMARCH1,2\n", {"gene": ["SEPT2", "MARCH1"], "b": [1, 2]}),
    "text that begins like a formula": ("a,b\n=1+1,1\n@x,2\n", {"a": ["=1+1", "@x"], "b": [1, 2]}),
    "html": ("a,b\n<b>x</b>,1\n", {"a": ["<b>x</b>"], "b": [1]}),
    "backslashes": ("a,b\nc:\\new\\t,1\n", {"a": ["c:\\new\\t"], "b": [1]}),
    "merged cells leave gaps": ("plate,b\nP1,1\n,2\nP2,3\n", {"plate": ["P1", None, "P2"], "b": [1, 2, 3]}),
    "a total at the end": ("w,b\nx,1\nSumme,1\n", {"w": ["x", "Summe"], "b": [1, 1]}),
    "zero width characters": ("a,b\nx\u200b,1\n", {"a": ["x\u200b"], "b": [1]}),
    "a cell of 100,000 letters": (f"a,b\n{'x' * 100_000},1\n", {"a": ["x" * 100_000], "b": [1]}),
    # shapes
    "one row": ("a,b\n1,2\n", {"a": [1], "b": [2]}),
    "one column of text": ("a\nx\ny\n", {"a": ["x", "y"]}),
    "one cell": ("a\n1\n", {"a": [1]}),
    "all rows alike": ("a,b\n" + "1,2\n" * 50, {"a": [1] * 50, "b": [2] * 50}),
    "packed": (gzip.compress(b"a,b\n1,2\n"), {"a": [1], "b": [2]}),
    "packed in two parts": (gzip.compress(b"a,b\n") + gzip.compress(b"1,2\n"), {"a": [1], "b": [2]}),
    "spaces about quotes": ('a,b\n"x" ,1\n', {"a": ["x "], "b": [1]}),
}  # fmt: skip


def workbook(name: str = "xl/workbook.xml") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "<x/>")
    return buffer.getvalue()


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a short row": ("a,b,c\n1,2,3\n4,5\n", "the header has 3 fields, but line 3 has 2"),
    "a long row": ("a,b\n1,2\n3,4,5\n", "the header has 2 fields, but line 3 has 3"),
    "two long rows after a quoted line end": ('a,b\n"x\ny",2\n3,4,5\n6,7,8\n', "line 4 has 3, line 5 has 3"),
    "long rows whose names repeat": ("a,b\nx,1,2\nx,3,4\n", "the header has 2 fields, but line 2 has 3"),
    "twins that differ": ("a,b,a\n1,2,3\n", r"such as 'a' \(columns 1, 3\)"),
    "values below no name": ("a,b,\n1,2,3\n", "column 3 has values but no name"),
    "two kinds of decimal marks": ("a;b\n1,5;2.5\n", "has a decimal comma, '2.5' .line 2, column 2. a decimal point"),
    "a comma that may mean two things": ("a;b\n1,234;5\n", "may be decimal or group thousands"),
    "a header alone": ("a,b\n", "a header but no rows"),
    "nothing": ("", "is empty"),
    "empty lines alone": ("\n\n\n", "holds no rows"),
    "comments alone": ("# a\n# b\n", "holds"),
    "a workbook": (workbook(), "an Excel workbook or a zip archive"),
    "a zip of a table": (workbook("table.csv"), "an Excel workbook or a zip archive"),
    "an old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an old Excel workbook"),
    "packed twice": (gzip.compress(gzip.compress(b"a,b\n1,2\n")), "packed twice"),
    "bzip2": (bz2.compress(b"a,b\n1,2\n" * 9), "packed by bzip2"),
    "xz": (lzma.compress(b"a,b\n1,2\n"), "packed by xz"),
    "a PDF": (b"%PDF-1.7\nx", "a PDF"),
    "zero bytes": (b"a,b\n1,\x00\x00\n", "zero bytes"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "zero bytes"),
    "a pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.", "may hold code"),
    "half of a gzip": (gzip.compress(b"a,b\n1,2\n" * 999)[:-20], "damaged gzip"),
}
FAULTS: dict[str, tuple[str, str, str]] = {
    "an error of Excel": ("n,a\nx,1\ny,#DIV/0!\nz,3\n", "a", "line 3, column 'a': '#DIV/0!' is no number"),
    "another error of Excel": ("n,a\nx,1\ny,2\nz,#VALUE!\n", "a", "line 4, column 'a': '#VALUE!' is no number"),
    "a reference of Excel": ("n,a\nx,#REF!\ny,2\nz,3\n", "a", "line 2, column 'a': '#REF!' is no number"),
    "a censored value": ("n,a\nx,<0.1\ny,2\nz,3\n", "a", "line 2, column 'a': '<0.1' is no number"),
    "a note among numbers": ('n,a\n"x\ny",1\ny,2\nz,see text\n', "a", "line 5, column 'a': 'see text' is no number"),
    "a date among numbers": ("n,a\nx,1\ny,2\nz,03.04.2024\n", "a", "line 4, column 'a': '03.04.2024' is no number"),
    "a percentage among numbers": ("n,a\nx,1\ny,2%\nz,3\n", "a", "line 3, column 'a': '2%' is no number"),
    "a unit behind a number": ("n,a\nx,1\ny,2 µm\nz,3\n", "a", "line 3, column 'a': '2 µm' is no number"),
    "two points": ("n,a\nx,1\ny,1.2.3\nz,3\n", "a", "line 3, column 'a': '1.2.3' is no number"),
    "a letter for a zero": ("n,a\nx,1\ny,1O\nz,3\n", "a", "line 3, column 'a': '1O' is no number"),
}


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(found: Any, expected: Any) -> bool:
    if expected is None or expected != expected:
        return bool(pd.isna(found))
    return bool(found == expected) and isinstance(found, str) == isinstance(expected, str)


@pytest.mark.parametrize("name", READ)
def test_an_odd_table_has_these_columns_and_values(tmp_path: Path, name: str) -> None:
    content, columns = READ[name]
    frame = tables.read(written(tmp_path, content)).frame
    assert list(frame.columns) == list(columns)
    for column, values in columns.items():
        found = frame[column].tolist()
        assert len(found) == len(values)
        assert all(map(same, found, values)), (found, values)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, words = REFUSED[name]
    with pytest.raises(CellvisionError, match=words) as caught:
        tables.read(written(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_cell_that_is_no_number_is_named_by_its_line(tmp_path: Path, name: str) -> None:
    content, column, words = FAULTS[name]
    assert tables.read(written(tmp_path, content)).faults[column].startswith(words)


@pytest.mark.parametrize(
    "name", ["a b.csv", "µ 細胞.csv", "#%[x]'.csv", "-x.csv", "CON.csv", "n" * 200 + ".csv", "t", "t.TSV"]
)
def test_a_file_is_read_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\tb\n1\t2\n")
    assert tables.read(tmp_path / name).frame.to_dict("list") == {"a": [1], "b": [2]}


def test_parquet_of_odd_types_is_text_where_text_is_meant(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "label": ["NA", None, "001"], "flag": [True, False, True], "day": pd.to_datetime(["2024-01-02"] * 3),
        "kind": pd.Categorical(["a", None, "b"]), "count": pd.array([1, None, 3], "Int64"),
    })  # fmt: skip
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    found = tables.read(tmp_path / "t.parquet", text=("label", "count", "kind")).frame
    assert found["label"].tolist()[::2] == ["NA", "001"]
    assert found["count"].tolist()[::2] == ["1", "3"]
    assert found["kind"].isna().tolist() == [False, True, False]
