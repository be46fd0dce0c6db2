"""Units, folds and the leak guard: known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from item_rows import rows_of

from cellvision.branches import items
from cellvision.branches.items import Items
from cellvision.core.errors import ConfigError, LeakError
from cellvision.evidence import splits


def made(of: Items, **options: Any) -> splits.Splits:
    return splits.make(of, splits.unit_column(of, **options))


@pytest.mark.parametrize(
    ("units", "folds"), [({"a": 9, "b": 5}, 5), ({"a": 9, "b": 3}, 3), ({"a": 9, "b": 1}, 5), ({"a": 1, "b": 1}, 0)]
)
def test_folds_are_five_or_the_smallest_number_of_units(units: dict[str, int], folds: int) -> None:
    found = made(rows_of(units))
    assert found.folds == folds
    for number in range(folds):
        tested = set(found.table[found.table["fold"] == number]["group"])
        assert tested == {group for group, count in units.items() if count > 1}


def test_a_group_of_one_unit_is_never_tested() -> None:
    table = made(rows_of({"a": 4, "b": 1})).table
    assert set(table[table["group"] == "b"]["fold"]) == {splits.NEVER_TESTED}
    with pytest.raises(ConfigError, match="nothing can be tested"):
        splits.test_folds(made(rows_of({"a": 1, "b": 1})), "all")


def test_folds_are_of_even_size() -> None:
    items_in = made(rows_of({"a": 10, "b": 15})).table["fold"].value_counts()
    assert items_in.max() - items_in.min() <= 1


def test_the_same_splits_twice_whatever_the_order_of_rows() -> None:
    one = rows_of({"a": 6, "b": 6})
    other = Items(one.table.sample(frac=1, random_state=1).reset_index(drop=True), "content", items.no_missed())
    assert made(one).content == made(one).content == made(other).content


def test_sources_of_the_same_content_share_a_unit() -> None:
    table = rows_of({"a": 5, "b": 5}).table
    table.loc[table["source_id"].isin(["a0", "b3"]), "source_hash"] = "twin"
    found = made(Items(table, "content", items.no_missed())).table.set_index("source_id")
    assert found.loc["a0", "unit"] == found.loc["b3", "unit"]
    assert found.loc["a0", "fold"] == found.loc["b3", "fold"]
    assert found["unit"].nunique() == 9


def test_duplicates_join_whole_units() -> None:
    """a0 and a1 are of one donor; b0 is a copy of a1: all three are one unit."""
    of = rows_of({"a": 5, "b": 5})
    of.table["donor"] = of.table["source_id"].replace({"a1": "a0"})
    of.table.loc[of.table["source_id"].isin(["a1", "b0"]), "source_hash"] = "twin"
    unit = splits.unit_column(of, "donor").groupby(of.table["source_id"]).first()
    assert unit["a0"] == unit["a1"] == unit["b0"]
    assert unit.nunique() == 8


def test_unit_from_the_first_group_of_a_pattern() -> None:
    of = rows_of({"a": 4}, well=[f"plate{n // 2 % 3}_A{n}" for n in range(8)])
    assert set(splits.unit_column(of, r"well~(plate\d)_")) == {"plate0", "plate1", "plate2"}
    with pytest.raises(ConfigError, match="needs a group in parentheses"):
        splits.unit_column(of, "well~plate")
    with pytest.raises(ConfigError, match="no regular expression"):
        splits.unit_column(of, "well~(plate")
    with pytest.raises(ConfigError, match="8 items get no unit"):
        splits.unit_column(of, "well~(dish)")
    with pytest.raises(ConfigError, match="no column 'wel'"):
        splits.unit_column(of, "wel")


def test_unit_from_a_file(tmp_path: Path) -> None:
    of, path = rows_of({"a": 3}), tmp_path / "units.csv"
    path.write_text("source_id,unit\na0,x\na1,x\na2,y\n")
    assert list(splits.unit_column(of, units=path)) == ["x"] * 4 + ["y"] * 2
    path.write_text("source_id,unit\na0,x\n")
    with pytest.raises(ConfigError, match=r"4 items get no unit, such as .*source 'a1'"):
        splits.unit_column(of, units=path)


def test_rows_are_no_units_unless_somebody_says_so_and_then_every_result_does() -> None:
    of = rows_of({"a": 6, "b": 6}, each=1, unit=None)
    with pytest.raises(ConfigError, match="say --unit row"):
        made(of)
    assert splits.stamps(of, made(of, unit="row")) == ["rows assumed independent"]
    assert splits.stamps(rows_of({"a": 2}), made(rows_of({"a": 2}))) == []


def test_splits_come_back_from_disk(tmp_path: Path) -> None:
    of = rows_of({"-a": 3, "no": 3, "007": 3, "'=b": 3, "'c": 3})
    made(of).write(tmp_path / "splits.csv")
    back = splits.read(tmp_path)
    assert back.content == made(of).content
    assert list(back.fold_of(of)) == list(made(of).fold_of(of))


def test_a_unit_in_two_folds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("source_id,unit,group,fold\ns0,u,a,0\ns1,u,a,1\n")
    with pytest.raises(LeakError, match="unit 'u' stands in more than one fold"):
        splits.read(path)


def test_items_without_a_fold_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 sources have no fold, such as 'b0'"):
        made(rows_of({"a": 4})).fold_of(rows_of({"a": 4, "b": 2}))


@pytest.mark.parametrize(("fold", "tested"), [("all", [0, 1, 2]), ("none", []), ("1", [1])])
def test_fold_names(fold: str, tested: list[int]) -> None:
    assert splits.test_folds(made(rows_of({"a": 3})), fold) == tested


@pytest.mark.parametrize("fold", ["3", "-1", "every", ""])
def test_an_unknown_fold_is_refused(fold: str) -> None:
    with pytest.raises(ConfigError, match="all, none or 0 to 2"):
        splits.test_folds(made(rows_of({"a": 3})), fold)


def test_the_guard_refuses_what_was_seen_and_stamps_what_was_asked_for() -> None:
    assert splits.guard({"a", "b"}, {"c"}, "encoder", False) is None
    with pytest.raises(LeakError, match="encoder has seen 1 of the 2 test sources"):
        splits.guard({"a", "b"}, {"b", "c"}, "encoder", False)
    stamp = splits.guard({"a", "b"}, {"b", "c"}, "encoder", True)
    assert stamp == "transductive: encoder has seen 1 of 2 test sources"
