"""Units, folds and the leak guard: known answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from item_rows import rows_of

from cellvision.branches import items
from cellvision.branches.items import Items
from cellvision.core.errors import ConfigError, LeakError
from cellvision.evidence import independence, splits, targets
from cellvision.evidence.problem import Supervised


def made(of: Items, **options: Any) -> splits.Splits:
    return splits.make(of, independence.unit_column(of, **options))


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
    unit = independence.unit_column(of, "donor").groupby(of.table["source_id"]).first()
    assert unit["a0"] == unit["a1"] == unit["b0"]
    assert unit.nunique() == 8


def test_unit_from_the_first_group_of_a_pattern() -> None:
    of = rows_of({"a": 4}, well=[f"plate{n // 2 % 3}_A{n}" for n in range(8)])
    assert set(independence.unit_column(of, r"well~(plate\d)_")) == {"plate0", "plate1", "plate2"}
    with pytest.raises(ConfigError, match="needs a group in parentheses"):
        independence.unit_column(of, "well~plate")
    with pytest.raises(ConfigError, match="no regular expression"):
        independence.unit_column(of, "well~(plate")
    with pytest.raises(ConfigError, match="8 items get no unit"):
        independence.unit_column(of, "well~(dish)")
    with pytest.raises(ConfigError, match="no column 'wel'"):
        independence.unit_column(of, "wel")


def test_unit_from_a_file(tmp_path: Path) -> None:
    of, path = rows_of({"a": 3}), tmp_path / "units.csv"
    path.write_text("source_id,unit\na0,x\na1,x\na2,y\n")
    assert list(independence.unit_column(of, units=path)) == ["x"] * 4 + ["y"] * 2
    path.write_text("source_id,unit\na0,x\n")
    with pytest.raises(ConfigError, match=r"4 items get no unit, such as .*source 'a1'"):
        independence.unit_column(of, units=path)


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


# -- folds and the target -----------------------------------------------------------------------------------------


def annotated(classes_of: dict[str, str], each: int = 2) -> Items:
    """unit -> a letter for every class its items carry."""
    rows = [
        (f"{unit}{n}{label}", unit, f"hash {unit}", unit, "all", label)
        for unit, labels in classes_of.items()
        for label in labels
        for n in range(each)
    ]
    return Items(pd.DataFrame(rows, columns=[*items.COLUMNS, "annotation"]), "content", items.no_missed())


@pytest.mark.parametrize("seed", range(20))
def test_a_class_with_two_units_stands_in_two_folds(seed: int) -> None:
    """Rare classes among common ones, several a unit: dealt without the target, a third of such sets lose a class."""
    rng = np.random.default_rng(seed)
    rare = {name: set(rng.choice(12, 2, replace=False)) for name in "xyz"}
    of = annotated({f"u{n:02d}": "ab" + "".join(name for name in rare if n in rare[name]) for n in range(12)})
    found = splits.resolve(of, None, None, None, "annotation")
    folds = pd.Series(found.fold_of(of)).groupby(of.table["annotation"]).nunique()
    assert found.folds == 5
    assert folds.min() >= 2


def test_a_class_whose_units_share_a_fold_is_not_evaluated() -> None:
    of = annotated({f"u{n}": "ab" + ("x" if n < 2 else "") for n in range(6)})
    target = targets.read(of, "annotation")
    together = splits.Splits(
        pd.DataFrame({"source_id": [f"u{n}" for n in range(6)], "unit": list("012345"), "fold": [0, 0, 1, 1, 2, 2]})
    )
    branch: Any = SimpleNamespace(items=of)
    assert Supervised(branch, together, target, "all", 0).evaluated() == {"a", "b"}
    dealt = splits.resolve(of, None, None, None, "annotation")
    assert Supervised(branch, dealt, target, "all", 0).evaluated() == {"a", "b", "x"}


def test_groups_that_share_their_units_are_all_dealt() -> None:
    of = annotated({f"donor{n}": "ab" for n in range(4)})
    of.table["group"] = of.table["annotation"]
    assert made(of).folds == 4


# -- splits that somebody wrote or kept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a0,u0,a,0\na0,u0,a,0\na1,u1,a,1\n", "line 3: this source stands above"),
        ("a0,u0,a,0\na1,u1,a,2\n", "without gaps; there is no fold 1"),
        ("a0,u0,a,first\n", "line 2, column 'fold': 'first' is no number"),
        ("a0,u0,a,0\na1,u1,a,0.5\n", "line 3: a fold is a whole number"),
        ("a0,u0,a,-2\n", "line 2: a fold is a whole number from -1 on"),
        ("a0,,a,0\n", "line 2: the unit is empty"),
        (" ,u0,a,0\n", "line 2: the source_id is empty"),
        ("a0,u0,a,\n", "line 2, column 'fold': an empty cell is no number"),
    ],
)
def test_a_wrong_line_of_splits_is_named(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(f"source_id,unit,group,fold\n{rows}")
    with pytest.raises(ConfigError, match=message):
        splits.read(path)


def by_hand(tmp_path: Path, folds: list[int]) -> Path:
    path = tmp_path / "splits.csv"
    path.write_text("source_id,unit,group,fold\n" + "".join(f"a{n},u{n},a,{fold}\n" for n, fold in enumerate(folds)))
    return path


def test_copies_in_two_folds_are_refused(tmp_path: Path) -> None:
    of = rows_of({"a": 4})
    of.table.loc[of.table["source_id"].isin(["a0", "a3"]), "source_hash"] = "twin"
    with pytest.raises(LeakError, match="items of the same content stand in more than one fold"):
        splits.resolve(of, by_hand(tmp_path, [0, 0, 1, 1]), None, None)
    assert splits.resolve(of, by_hand(tmp_path, [0, 1, 1, 0]), None, None).folds == 2


def test_units_beside_splits_are_checked_and_make_their_units_coarser(tmp_path: Path) -> None:
    of = rows_of({"a": 4})
    of.table["patient"] = of.table["source_id"].map({"a0": "p", "a1": "p", "a2": "q", "a3": "r"})
    found = splits.resolve(of, by_hand(tmp_path, [0, 0, 1, 1]), "patient", None)
    assert len(set(found.unit_of(of))) == 3
    with pytest.raises(LeakError, match=r"items of one unit stand in more than one fold of the splits, .*'p'"):
        splits.resolve(of, by_hand(tmp_path, [0, 1, 0, 1]), "patient", None)


def numbered(of: Items) -> Items:
    """The same rows, known by their number alone."""
    table = of.table.assign(item_id=[f"row{n}" for n in range(len(of.table))])
    return Items(table.assign(source_id=table["item_id"]), "content", items.no_missed(), numbered=True)


def test_a_table_that_was_sorted_again_keeps_its_folds(tmp_path: Path) -> None:
    of = numbered(rows_of({"a": 6, "b": 6}, each=1))
    made(of).write(tmp_path / "splits.csv")
    fold = dict(zip(of.table["source_hash"], made(of).fold_of(of), strict=True))
    again = numbered(Items(of.table.sample(frac=1, random_state=3, ignore_index=True), "content", items.no_missed()))
    found = splits.resolve(again, tmp_path, None, None)
    assert dict(zip(again.table["source_hash"], found.fold_of(again), strict=True)) == fold
    changed = numbered(Items(of.table.assign(source_hash=of.table["source_hash"] + "x"), "", items.no_missed()))
    with pytest.raises(ConfigError, match="12 of 12 rows are not those that the splits were made of, such as 'row0'"):
        splits.resolve(changed, tmp_path, None, None)


# -- units that somebody wrote ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a0,x\na1,\na2,y\n", "line 3: a source and its unit are needed, one is empty"),
        ("a0,x\na1,x\na2,y\na1,y\n", "line 5: source 'a1' has the unit 'y' here and another above"),
    ],
)
def test_a_wrong_line_of_units_is_named(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "units.csv"
    path.write_text(f"source_id,unit\n{rows}")
    with pytest.raises(ConfigError, match=message):
        independence.unit_column(rows_of({"a": 3}), units=path)


def test_spellings_of_one_unit_are_one_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    of = rows_of({"a": 5}, each=1, donor=["D01", "d01 ", "Zoe\u0301", "Zo\u00e9", "D02"])
    assert len(set(independence.unit_column(of, "donor"))) == 3
    assert "units: 2 are spelled in several ways and taken as one, such as 'D01' and 'd01 '" in capsys.readouterr().err


def test_a_missing_unit_is_no_unit() -> None:
    of = rows_of({"a": 4}, each=1, plate=["p1", None, "p2", " "])
    with pytest.raises(ConfigError, match="2 items get no unit, such as those of source 'a1'"):
        independence.unit_column(of, "plate")
