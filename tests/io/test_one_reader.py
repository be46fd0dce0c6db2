"""One reader behind every table that comes in: a file's dialect changes nothing of what any of them reads."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellvision.branches.items import Items, no_missed
from cellvision.branches.rna import counts, metadata
from cellvision.branches.trace import tables as tracetables
from cellvision.cells import annotate, readycrops
from cellvision.core import files
from cellvision.core.errors import CellvisionError, ConfigError, UnsafeInput
from cellvision.evidence import independence, labelscores, splits
from cellvision.io import matrices, packed, tables

Rows = list[list[Any]]
ODD = ["001", "1e5", "True", "NA", "None", "null", "nan", "1,5", " é"]  # what a label may look like
IMAGES = pd.DataFrame({"path": [f"a/{n}.png" for n in range(9)], "image_id": [f"i{n}" for n in range(9)]})


def labelled_points(path: Path) -> Any:
    return annotate.read(path, IMAGES)


def units_file(path: Path) -> Any:
    table = pd.DataFrame({"item_id": ODD, "source_id": ODD, "unit": None, "group": "g", "source_hash": ODD})
    return independence.unit_column(Items(table, "", no_missed()), units=path)


def truth_metadata(path: Path) -> Any:
    (path.parent / "truth").mkdir(exist_ok=True)
    (path.parent / "truth" / "0.tif").touch()
    return labelscores.find(path.parent / "truth", path, ("look",)).table


def expression(path: Path) -> Any:
    found = counts.read(path)
    return found.cells.assign(**dict(zip(found.genes, found.matrix.take(np.arange(9)).toarray().T, strict=True)))


def cell_metadata(path: Path) -> Any:
    return metadata.join(pd.DataFrame(index=[f"c{n}" for n in range(9)]), [path])[0]


def traces(path: Path) -> Any:
    found = tracetables.read(path, None, None, ())
    return found.table.assign(**{f"t{n}": found.values[:, 0, n] for n in range(found.values.shape[2])})


READERS: dict[str, tuple[Callable[[Path], Any], list[str], Rows]] = {  # reader, header, rows
    "annotations": (
        labelled_points, ["image", "x", "y", "label"], [[f"{n}.png", n + 0.5, 2.25, ODD[n]] for n in range(9)]
    ),
    "ready crops": (
        lambda path: readycrops.read_metadata(path, "well"), ["image", "label", "well"],
        [[f"{n}.png", ODD[n], ODD[-n]] for n in range(9)],
    ),
    "units": (units_file, ["source_id", "unit"], [[ODD[n], ODD[n]] for n in range(9)]),
    "splits": (
        lambda path: splits.read(path).table, ["source_id", "unit", "group", "fold"],
        [[ODD[n], ODD[n], ODD[-n], n % 3] for n in range(9)],
    ),
    "truth metadata": (truth_metadata, ["image", "look"], [[f"{n}.png", ODD[n]] for n in range(9)]),
    "tabular": (
        lambda path: tables.read(path).frame, ["name", "area", "count"], [[f"é{n}", n + 0.5, n] for n in range(9)]
    ),
    "counts": (expression, ["cell", "g1", "g2", "donor"], [[f"00{n}", n, n + 0.5, f"é{n}"] for n in range(9)]),
    "cell metadata": (cell_metadata, ["cell_id", "kind"], [[f"c{n}", f"{n}é"] for n in range(9)]),
    "traces": (
        traces, ["id", "kind", *(f"v_{t}" for t in range(8))],
        [[f"x{n}", f"é{n}", *(n + t + 0.25 for t in range(8))] for n in range(9)],
    ),
}  # fmt: skip
DIALECTS: dict[str, tuple[str, str, Callable[[str], bytes]]] = {  # separator, decimal mark, bytes of the text
    "semicolon": (";", ",", str.encode),
    "tab": ("\t", ".", str.encode),
    "bar": ("|", ".", str.encode),
    "BOM": (",", ".", lambda text: text.encode("utf-8-sig")),
    "UTF-16": (";", ",", lambda text: text.encode("utf-16")),
    "Latin-1": (";", ".", lambda text: text.encode("latin-1")),
    "gzip": (",", ".", lambda text: gzip.compress(text.encode())),
}


def written(path: Path, header: list[str], rows: Rows, dialect: str = "") -> Path:
    separator, decimal, encoded = DIALECTS[dialect] if dialect else (",", ".", str.encode)
    lines = [separator.join(header)]
    for row in rows:
        cells = [str(cell).replace(".", decimal) if isinstance(cell, float) else str(cell) for cell in row]
        lines.append(separator.join(f'"{cell}"' if separator in cell else cell for cell in cells))
    path.write_bytes(encoded("\n".join([*lines, ""])))
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", READERS)
def test_every_dialect_reads_like_the_plain_file(tmp_path: Path, name: str, dialect: str) -> None:
    reader, header, rows = READERS[name]
    plain = reader(written(tmp_path / "plain.csv", header, rows))
    odd = reader(written(tmp_path / ("odd.csv.gz" if dialect == "gzip" else "odd.csv"), header, rows, dialect))
    assert len(plain) == len(rows)
    assert plain.equals(odd)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("change", ["short", "long"])
def test_a_ragged_row_is_named_by_line(tmp_path: Path, name: str, change: str) -> None:
    reader, header, rows = READERS[name]
    rows = [row if n != 4 else row[:-1] if change == "short" else [*row, 1] for n, row in enumerate(rows)]
    with pytest.raises(ConfigError, match="line 6 has") as caught:
        reader(written(tmp_path / "t.csv", header, rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in READERS if name != "counts"])  # genes may stand twice
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, name: str) -> None:
    reader, header, rows = READERS[name]
    with pytest.raises(ConfigError, match=f"such as '{header[0]}'"):
        reader(written(tmp_path / "t.csv", [*header, header[0]], [[*row, 1] for row in rows]))


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_is_refused_with_the_safe_way_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeInput, match=r"may hold code.*(CSV|h5ad)"):
        READERS[name][0](tmp_path / "t.pkl")


def test_labels_and_units_stay_as_they_were_written(tmp_path: Path) -> None:
    found = {name: READERS[name][0](written(tmp_path / "t.csv", *READERS[name][1:])) for name in READERS}
    assert found["annotations"]["label"].tolist() == ODD
    assert found["ready crops"]["label"].tolist() == ODD
    assert found["units"].tolist() == ODD
    assert found["splits"]["unit"].tolist() == ODD
    assert found["truth metadata"]["look"].tolist() == ODD
    assert found["counts"].index.tolist() == [f"00{n}" for n in range(9)]


def test_an_empty_label_is_left_out_and_its_line_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "t.csv", ["image", "x", "y", "label"], [["0.png", 1, 2, ""], ["1.png", 1, 2, "a"]])
    assert labelled_points(path)["label"].tolist() == ["a"]
    assert "1 have no label and are left out (t.csv, line 2)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\\0.png", "0", "C:/crops/a/0.PNG", "a/0.png"])
def test_crops_are_found_by_any_name_of_their_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "crops" / "a").mkdir(parents=True)
    (tmp_path / "crops" / "a" / "0.png").touch()
    path = written(tmp_path / "t.csv", ["image", "label"], [[name, "None"]])
    found = readycrops.below(tmp_path / "crops", readycrops.read_metadata(path, None), path)
    assert found[["image", "label"]].to_numpy().tolist() == [["a/0.png", "None"]]
    with pytest.raises(ConfigError, match="none of its 1 names is that of a file"):
        readycrops.below(tmp_path / "crops", found.assign(image="q.png"), path)


def test_a_bad_coordinate_is_named_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('image;x;y;label\n"a\nb";1,5;2,5;x\n1.png;left;2,5;x\n2.png;1,5;2,5;\n')
    with pytest.raises(ConfigError, match="line 4, column 'x': 'left' is no number"):
        labelled_points(path)


def test_typed_files_give_text_where_text_is_meant(tmp_path: Path) -> None:
    pd.DataFrame({"source_id": [1, 2], "unit": ["NA", None]}).to_parquet(tmp_path / "t.parquet")
    found = tables.read_text(tmp_path / "t.parquet")
    assert found["source_id"].tolist() == ["1", "2"]
    assert found["unit"].isna().tolist() == [False, True]


# -- packed files -------------------------------------------------------------------------------------------------


def test_a_gzip_that_never_seems_to_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "HARMLESS", 1 << 20)
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"a,b\n" + b"0,0\n" * (1 << 20)))
    with pytest.raises(UnsafeInput, match="unpacks to over 1048576 bytes"):
        tables.read(tmp_path / "t.csv")


@pytest.mark.parametrize("reader", [tables.read, matrices.dialect_of, tables.read_text])
def test_a_damaged_gzip_is_one_line(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    whole = gzip.compress(
        np.random.default_rng(0).integers(0, 9, 20000).astype("U1").tobytes()[::4].replace(b"1", b",")
    )
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="damaged gzip"):
        reader(tmp_path / "t.csv.gz")


def test_a_pickle_inside_a_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"\x80\x04."))
    with pytest.raises(UnsafeInput, match="may hold code"):
        tables.read(tmp_path / "t.csv")


# -- matrices -----------------------------------------------------------------------------------------------------


def test_portions_join_to_the_whole_and_name_lines_of_the_file(tmp_path: Path) -> None:
    rows: Rows = [[f"c{n}", n, n + 0.5] for n in range(25)]
    path = written(tmp_path / "t.csv", ["cell", "g", "h"], rows)
    dialect = matrices.dialect_of(path)
    joined = pd.concat(matrices.named_portions(path, dialect, 10))
    assert joined.equals(tables.read(path).frame.set_index("cell"))
    rows[23][1] = "x7"
    with pytest.raises(ConfigError, match="line 25, column 'g': 'x7' is no number"):
        counts.read(written(path, ["cell", "g", "h"], rows))


def test_row_names_without_a_header_are_understood(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('"g1","g2"\n"A",1,2\n"B",,4\n')  # write.table of R
    dialect = matrices.dialect_of(tmp_path / "r.csv")
    (portion,) = matrices.named_portions(tmp_path / "r.csv", dialect, 10)
    assert portion.index.tolist() == ["A", "B"]
    assert portion["g2"].tolist() == [2, 4]


def test_what_the_project_wrote_comes_back(tmp_path: Path) -> None:
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({"value": ["=1", "007", ""], "ap": [0.5, 1.0, 0.25]}))
    found = files.read_csv(tmp_path / "t.csv", text=("value",))
    assert found["value"].tolist() == ["=1", "007", ""]
    assert found["ap"].tolist() == [0.5, 1.0, 0.25]


def test_refusals_have_their_exit_codes(tmp_path: Path) -> None:
    codes = {}
    for name, content in {"t.pkl": b"x", "absent.csv": None, "empty.csv": b"", "zip.csv": b"PK\x03\x04"}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CellvisionError) as caught:
            tables.read_text(tmp_path / name)
        codes[name] = caught.value.exit_code
    assert codes == {"t.pkl": 5, "absent.csv": 4, "empty.csv": 3, "zip.csv": 4}
