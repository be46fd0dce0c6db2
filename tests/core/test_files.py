"""Atomic writes, inert CSV, JSON without nan, hashes of folders."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cellvision.core import config, files


def test_atomic_leaves_nothing_behind_on_error(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="No such file"), files.atomic(path) as temporary:
        temporary.write_bytes(Path("half", "of", "it").read_bytes())
    with pytest.raises(AttributeError), files.atomic(path) as temporary:
        temporary.write_text("half").stop()  # type: ignore[attr-defined]
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\ta", "\ra"])
def test_csv_text_is_inert_in_a_spreadsheet(tmp_path: Path, text: str) -> None:
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({text: [text, "b-c"], "n": [-1.5, 2.0]}))
    with (tmp_path / "t.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [[f"'{text}", "n"], [f"'{text}", "-1.5"], ["b-c", "2.0"]]


def test_json_has_no_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": float("nan"), "y": np.float32(0.5), "z": (np.inf, np.int64(3))})
    assert files.read_json(tmp_path / "a.json") == {"x": None, "y": 0.5, "z": [None, 3]}


def test_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    def digest(**contents: str) -> str:
        folder = tmp_path / config.fingerprint(contents)
        for name, text in contents.items():
            files.write_text(folder / name, text)
        return files.hash_tree(folder, frozenset({"skipped"}))

    assert digest(a="1", skipped="x") == digest(a="1", skipped="y")
    assert len({digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b="1")}) == 4
