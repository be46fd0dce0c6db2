"""units.csv may name a source as a table of any system names its file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cellvision.branches.items import Items, no_missed
from cellvision.core.errors import ConfigError
from cellvision.evidence import independence

PATHS = ["a/1.png", "a/2.png", "b/3.ome.tif"]


def items() -> Items:
    table = pd.DataFrame({"item_id": ["x", "y", "z"], "source_id": ["i1", "i2", "i3"], "path": PATHS, "group": "g"})
    return Items(table.assign(unit=table["source_id"], source_hash=table["source_id"]), "", no_missed())


@pytest.mark.parametrize(
    "names",
    [
        ["i1", "i2", "i3"],
        PATHS,
        ["a\\1.png", "a\\2.png", "b\\3.ome.tif"],
        ["1", "2", "3"],
        ["i1", "2.PNG", "C:\\raw\\b\\3"],
    ],
    ids=["sources", "paths", "Windows", "bare", "mixed"],
)
def test_units_are_found_by_any_name_of_the_file(tmp_path: Path, names: list[str]) -> None:
    pd.DataFrame({"source_id": names, "unit": ["001", "001", "NA"]}).to_csv(tmp_path / "u.csv", index=False)
    unit = independence.unit_column(items(), units=tmp_path / "u.csv")
    assert unit.tolist() == ["001", "001", "NA"]


def test_units_of_other_files_stop_with_an_example_of_both_sides(tmp_path: Path) -> None:
    (tmp_path / "u.csv").write_text("source_id,unit\nq.png,p\n")
    with pytest.raises(ConfigError, match=r"such as those of source 'i1'; .*u.csv names 'q.png'"):
        independence.unit_column(items(), units=tmp_path / "u.csv")
