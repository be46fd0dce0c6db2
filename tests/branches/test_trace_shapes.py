"""trace: the shapes in which programs write traces give one set of traces, with labels as they were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from trace_items import opened, table_of

from cellvision.branches import BRANCHES
from cellvision.core.errors import ConfigError, NoUsableInput
from cellvision.evidence import splits, targets

CELLS, POINTS = 6, 10
VALUES = np.random.default_rng(0).normal(size=(CELLS, POINTS)).round(3).astype(np.float32)
LABELS = ["NA", "None", "001", "1e5", "True", "null"]


def traces(branch: Any) -> NDArray[np.float32]:
    return branch.traces.take(np.arange(len(branch.items.table)))[:, 0]


# -- tables --


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        ("ERK_{0}min", "ERK"), ("ERK_{0} min", "ERK"), ("ERK ({0} min)", "ERK"), ("ERK_t={0}s", "ERK"),
        ("ERK-{0}min", "ERK"), ("ERK_{0}", "ERK"), ("{0}", "trace"), ("{0}h", "trace"), ("time_{0}sec", "trace"),
    ],
)  # fmt: skip
def test_columns_named_by_time_are_one_channel_in_order(tmp_path: Path, name: str, channel: str) -> None:
    order = np.random.default_rng(1).permutation(POINTS)
    columns = {name.format(2.5 * t): VALUES[:, t] for t in order}
    pd.DataFrame({"ID": LABELS, **columns}).to_csv(tmp_path / "t.csv", index=False)
    branch = opened(tmp_path / "t.csv")
    assert branch.channels == (channel,)
    np.testing.assert_array_equal(traces(branch), VALUES)


def test_times_of_several_units_and_before_zero_stand_in_their_order(tmp_path: Path) -> None:
    names = ["A_-30s", "A_0s", "A_0.5min", "A_90s", "A_1h"]
    shuffled = [3, 0, 4, 1, 2]
    pd.DataFrame({"id": LABELS} | {names[n]: VALUES[:, n] for n in shuffled}).to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_array_equal(traces(opened(tmp_path / "t.csv")), VALUES[:, :5])


def test_ids_and_labels_of_traces_stay_as_written(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"ID": ["001", "01", "1e5", "1", "NA5", "True"], "class": LABELS, "field": ["01"] * 3 + ["1"] * 3}
    )
    wide = frame.assign(**{f"v_{t}": VALUES[:, t] for t in range(POINTS)})
    wide.to_csv(tmp_path / "wide.csv", index=False)
    long = pd.concat([frame.assign(time=t, v=VALUES[:, t]) for t in range(POINTS)])
    long.to_csv(tmp_path / "long.csv", index=False)
    for name in ("wide.csv", "long.csv"):
        branch: Any = BRANCHES.build({"name": "trace"}, path=tmp_path / name, reserved=("class", "field"))
        assert branch.items.table["item_id"].tolist() == frame["ID"].tolist()
        assert set(targets.read(branch.items, "class", least=1).classes) == set(LABELS)
        assert branch.items.table["field"].tolist() == frame["field"].tolist()
        np.testing.assert_array_equal(traces(branch), VALUES)


@pytest.mark.parametrize("time", ["time", "Time [min]", "frame", "t (s)"])
def test_a_column_a_cell_has_its_time_down_the_rows(tmp_path: Path, time: str) -> None:
    columns = {f"{'wt' if n < 3 else 'mut'}_{n}": VALUES[n] for n in range(CELLS)}
    pd.DataFrame({time: np.arange(POINTS) * 2.5, **columns}).to_csv(tmp_path / "t.csv", index=False)
    branch = opened(tmp_path / "t.csv", group="prefix")
    assert branch.items.table["item_id"].tolist() == list(columns)
    assert branch.items.table["group"].tolist() == ["wt"] * 3 + ["mut"] * 3
    np.testing.assert_array_equal(traces(branch), VALUES)


def test_a_column_a_cell_without_a_time_has_to_be_said(tmp_path: Path) -> None:
    pd.DataFrame({f"Mean{n}": VALUES[n] for n in range(CELLS)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ConfigError, match=r"give --branch.layout"):
        opened(tmp_path / "t.csv")
    np.testing.assert_array_equal(traces(opened(tmp_path / "t.csv", layout="columns")), VALUES)


def test_tracks_of_trackmate_are_traces_of_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"ID{n},{n},{track},{t},{n * 1.5},{t * 0.5},{VALUES[track, t]}"
        for n, (track, t) in enumerate((track, t) for t in range(POINTS) for track in range(CELLS))
    ]
    text = "\n".join([
        "LABEL,ID,TRACK_ID,FRAME,POSITION_X,POSITION_T,MEAN_INTENSITY_CH1",
        "Label,Spot ID,Track ID,Frame,X,T,Mean intensity ch1", "Label,Spot ID,Track ID,Frame,X,T,Mean ch1",
        ",,,,(micron),(sec),(counts)", *rows, "ID900,900,None,3,1.5,1.5,7.5", "ID901,901,,4,1.5,2,7.5", "",
    ])  # fmt: skip
    branch = opened(table_of(tmp_path, text))
    assert branch.channels == ("MEAN_INTENSITY_CH1",)
    assert branch.items.table["item_id"].tolist() == [str(n) for n in range(CELLS)]
    np.testing.assert_array_equal(traces(branch), VALUES)
    said = capsys.readouterr().err
    assert "2 rows belong to no TRACK_ID and are left out (lines 65, 66)" in said
    assert "no channels, since they are places or ids: 'POSITION_T', 'POSITION_X'" in said
    assert opened(tmp_path / "t.csv", channels=["POSITION_X"]).channels == ("POSITION_X",)


# -- matrices --


def char(file: Any, name: str, text: str) -> Any:
    node = file.create_dataset(name, data=np.array([[ord(letter)] for letter in text], np.uint16))
    node.attrs["MATLAB_class"] = np.bytes_("char")
    return node


def number(file: Any, name: str, values: Any) -> Any:
    """As MATLAB writes it: what it shows as rows by columns lies as columns by rows."""
    node = file.create_dataset(name, data=np.atleast_2d(np.asarray(values, float)).T)
    node.attrs["MATLAB_class"] = np.bytes_("double")
    return node


def cell_array(file: Any, name: str, parts: list[Any]) -> None:
    held = file.require_group("#refs#")
    nodes = [
        (char if isinstance(part, str) else number)(held, f"{name.replace('/', '_')}{n}", part)
        for n, part in enumerate(parts)
    ]
    node = file.create_dataset(name, data=np.array([[part.ref] for part in nodes], h5py.ref_dtype))
    node.attrs["MATLAB_class"] = np.bytes_("cell")


def matrix(file: Any) -> None:
    number(file, "traces", VALUES)
    number(file, "time", np.arange(POINTS)[None])
    cell_array(file, "kind", LABELS)


def turned_matrix(file: Any) -> None:
    number(file, "F", VALUES.T)
    number(file, "t", np.arange(POINTS)[:, None])
    cell_array(file, "kind", LABELS)


def vectors(file: Any) -> None:
    cell_array(file, "traces", [VALUES[n][None] if n % 2 else VALUES[n][:, None] for n in range(CELLS)])
    cell_array(file, "kind", LABELS)


def struct(file: Any) -> None:
    file.create_group("data").attrs["MATLAB_class"] = np.bytes_("struct")
    letters = h5py.vlen_dtype(np.dtype("S1"))
    fields = np.empty(2, object)
    fields[:] = [np.array([*map(str.encode, name)], "S1") for name in ("trace", "kind")]
    file["data"].attrs.create("MATLAB_fields", fields, dtype=letters)
    number(file, "data/trace", VALUES)
    cell_array(file, "data/kind", LABELS)


def struct_array(file: Any) -> None:
    file.create_group("cells")
    cell_array(file, "cells/trace", [VALUES[n][None] for n in range(CELLS)])
    cell_array(file, "cells/kind", LABELS)


def other_program(file: Any) -> None:
    file["traces"] = VALUES
    file["kind"] = LABELS


WRITERS = [matrix, turned_matrix, vectors, struct, struct_array, other_program]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_matrices_cell_arrays_and_structs_are_the_same_traces(tmp_path: Path, write: Callable[[Any], None]) -> None:
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        write(file)
    branch = opened(tmp_path / "a.mat", group="kind")
    np.testing.assert_array_equal(traces(branch), VALUES)
    assert branch.items.table["group"].tolist() == LABELS
    with pytest.raises(ConfigError, match="rows of a table, and ready crops, are not independent"):
        splits.resolve(branch.items, None, None, None)


def test_traces_of_unequal_lengths_end_in_gaps(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        cell_array(file, "traces", [VALUES[n][None, : POINTS - n] for n in range(CELLS)])
    found = traces(opened(tmp_path / "a.mat"))
    for n in range(CELLS):
        np.testing.assert_array_equal(found[n, : POINTS - n], VALUES[n, : POINTS - n])
        assert np.isnan(found[n, POINTS - n :]).all()


def test_the_matrices_of_a_cell_array_and_files_of_a_folder_are_units(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.mat", "w") as file:
            cell_array(file, "movies", [VALUES, VALUES + 1])
            number(file, "time", np.arange(POINTS)[None])
            cell_array(file, "drug", ["NA", "EGF"])
    one = opened(tmp_path / "a.mat", group="drug").items.table
    assert one["unit"].tolist() == ["1"] * CELLS + ["2"] * CELLS
    assert one["group"].tolist() == ["NA"] * CELLS + ["EGF"] * CELLS
    both = opened(tmp_path).items.table
    assert both["unit"].drop_duplicates().tolist() == ["a.mat:1", "a.mat:2", "b.mat:1", "b.mat:2"]
    assert both["item_id"].is_unique


def test_matrices_of_one_shape_are_channels(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        number(file, "ERK", VALUES)
        number(file, "AKT", VALUES * 2)
        number(file, "time", np.arange(POINTS)[None])
    branch = opened(tmp_path / "a.mat")
    assert branch.channels == ("AKT", "ERK")
    np.testing.assert_array_equal(branch.traces.take(np.arange(CELLS))[:, 0], VALUES * 2)


@pytest.mark.parametrize(
    ("contents", "options", "words"),
    [
        ({"F": VALUES}, {}, "F is 6 by 10 and nothing says which are the cells; give --branch.layout wide"),
        ({"F": VALUES, "G": VALUES[:3]}, {}, "F, G may all be traces; name one with --branch.variable"),
        ({"F": VALUES}, {"variable": "H"}, "no variable 'H' of traces; it has F"),
        ({"x": 1.0}, {}, "no group timeTraces with samples, and no matrix or cell array of traces"),
    ],
    ids=["square", "several", "unknown", "none"],
)
def test_what_has_to_be_said_is_asked_for(
    tmp_path: Path, contents: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        for name, values in contents.items():
            number(file, name, values)
    with pytest.raises((ConfigError, NoUsableInput), match=words):
        opened(tmp_path / "a.mat", **options)


@pytest.mark.parametrize("layout", ["wide", "columns"])
def test_a_layout_that_is_said_is_taken(tmp_path: Path, layout: str) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        number(file, "F", VALUES if layout == "wide" else VALUES.T)
    np.testing.assert_array_equal(traces(opened(tmp_path / "a.mat", layout=layout)), VALUES)
