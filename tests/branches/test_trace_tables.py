"""trace: wide and long tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trace_items import opened, table_of, wide_text

from cellvision.branches.trace import tables as tracetables
from cellvision.core.errors import ConfigError, NoUsableInput, UnsafeInput
from cellvision.evidence import splits


def test_wide_tables_have_channels_and_gaps(tmp_path: Path) -> None:
    rows = ["a,x," + ",".join([""] * 3 + ["1"] * 5 + ["2"] * 8), "b,y," + ",".join(["3"] * 8 + ["4"] * 7 + ["inf"])]
    branch = opened(table_of(tmp_path, wide_text(rows)))
    assert branch.channels == ("ERK", "AKT")
    values = branch.traces.take(np.arange(2))
    assert np.array_equal(values[0, 0], [np.nan] * 3 + [1] * 5, equal_nan=True)
    assert np.array_equal(values[1, 1], [4] * 7 + [np.nan], equal_nan=True)
    with pytest.raises(ConfigError, match="rows of a table, and ready crops, are not independent"):
        splits.resolve(branch.items, None, None, None)
    assert splits.resolve(branch.items, None, "ID~(.)", None).table["unit"].tolist() == ["a", "b"]
    assert opened(tmp_path / "t.csv", channels=["AKT"]).traces.shape == (1, 8)


def test_wide_and_long_tables_are_the_same_traces(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 2, 12)).astype(np.float32)
    values[2, :, :4] = np.nan
    columns = {f"{c}_{t}": values[:, n, t] for n, c in enumerate(("ERK", "AKT")) for t in range(12)}
    ids = [f"r1_f{n}_{n}" for n in range(5)]
    pd.DataFrame({"ID": ids, "dose": range(5), **columns}).to_csv(tmp_path / "wide.csv", index=False)
    rows = [
        {"ID": ids[n], "time": 15 * t, "ERK": values[n, 0, t], "AKT": values[n, 1, t], "dose": n}
        for t in range(12) for n in range(5) if np.isfinite(values[n, 0, t])
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "long.csv", index=False, sep=";", decimal=",")
    wide, long = opened(tmp_path / "wide.csv"), opened(tmp_path / "long.csv")
    assert wide.channels == long.channels
    order = [list(long.items.table["item_id"]).index(name) for name in wide.items.table["item_id"]]
    taken = long.traces.take(np.array(order))
    np.testing.assert_allclose(wide.traces.take(np.arange(5)), taken, rtol=1e-5)
    assert long.items.table["dose"].iloc[order].tolist() == list(range(5))


def test_a_target_that_changes_with_time_is_no_channel(tmp_path: Path) -> None:
    rows = [{"id": n, "t": t, "v": t * n, "y": (t + n) % 2} for n in range(3) for t in range(9)]
    pd.DataFrame(rows).to_csv(tmp_path / "l.csv", index=False)
    assert tracetables.read(tmp_path / "l.csv", None, None, (), ("y",)).channels == ("v",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (wide_text(["a,x," + ",".join(["1"] * 16), "b,y," + ",".join(["1"] * 5 + ["high"] + ["1"] * 10)]),
         r"line 3, column 'ERK_5': 'high' is no number"),
        (wide_text(["a,x," + ",".join(["1"] * 18)]), r"header has 18 fields, but line 2 has 20"),
        (wide_text(["a,x," + ",".join(["1"] * 16)] * 2), "item_id must be unique; 'a'"),
        (wide_text(["a,x," + "1," * 15 + "1", "b,y,1,2"]), "header has 18 fields, but line 3 has 4"),
        (wide_text(["a,x," + "1," * 15 + "1", "b,y" + ",1" * 17]), "header has 18 fields, but line 3 has 19"),
        (wide_text(["a,x,2," + "1," * 14 + "1"]).replace("ERK_1", "ERK_0"), "such as 'ERK_0' .columns 3, 4.; rename"),
        ("a,b\n1,2\n", "looks neither wide"),
        ("id,time,v\n1,0,2\n1,0,3\n", r"line 3: 1 has the time 0 twice"),
        ("id,time,v\n1,0,2\n1,1,2\n", "no numbers that change with time"),
        ("id,time,v\n" + "".join(f"{n},{n / 7},{n}\n{n},{n / 7 + 1},{n + 1}\n" for n in range(9)), "on one grid"),
    ],
    ids=["text", "ragged", "twice", "short", "long", "same name", "no trace", "time twice", "constant", "no grid"],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(table_of(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), (wide_text([]), "a header but no rows"), (wide_text(["a,x," + "," * 15]), "no trace with a")],
)
def test_a_table_without_traces_is_no_usable_input(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NoUsableInput, match=message):
        opened(table_of(tmp_path, text))


@pytest.mark.parametrize("decimal", [".", ","])
def test_semicolons_go_with_either_decimal_mark(tmp_path: Path, decimal: str) -> None:
    text = wide_text(["a,x," + ",".join(["0.5"] * 16)]).replace(",", ";").replace(".", decimal)
    assert (opened(table_of(tmp_path, text)).traces.take(np.arange(1)) == 0.5).all()


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeInput, match="may hold code"):
        opened(tmp_path / "t.pkl")


def test_codes_take_the_names_of_classes_csv(tmp_path: Path) -> None:
    rows = [f"{n},{n % 3}," + ",".join(["1"] * 16) for n in range(3)]
    table_of(tmp_path, wide_text(rows), "dataset.csv")
    table_of(tmp_path, "class,class_name\n0,EGF\n1,HGF\n2,CTR\n", "classes.csv")
    assert opened(tmp_path).items.table["class"].tolist() == ["EGF", "HGF", "CTR"]
    table_of(tmp_path, "class,class_name\n0,EGF\n", "classes.csv")
    with pytest.raises(ConfigError, match="no name for class '1' of row 3"):
        opened(tmp_path)
