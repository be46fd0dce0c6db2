"""trace: files of simulations, faults named to the sample and the cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import GRID, waves, write_waves
from trace_items import CELLS, opened

from cellvision.branches.trace.files import Reader, natural, parameters
from cellvision.branches.trace.store import collected
from cellvision.core.errors import NoUsableInput, UnsafeInput
from cellvision.evidence import splits


def read(path: Path) -> tuple[Any, pd.DataFrame, Reader]:
    reader = Reader(path)
    values, table = collected(reader.blocks())
    return values.take(np.arange(len(values)))[:, 0], table, reader


@pytest.mark.parametrize("turned", [True, False], ids=["as MATLAB", "as Python"])
def test_the_axis_of_the_cells_is_the_one_as_long_as_the_distances(turned: bool, tmp_path: Path) -> None:
    made = waves(GRID, 1, 0.1, 0)[0]
    write_waves(tmp_path / "a.h5", GRID, {"1": made.T if turned else made})
    values, table, _ = read(tmp_path)
    np.testing.assert_allclose(values, made, rtol=1e-6)
    assert table["distance"].tolist() == list(GRID)
    assert table["cell"].tolist() == list(range(1, CELLS + 1))


def test_samples_sort_as_numbers_and_keep_their_ids(tmp_path: Path) -> None:
    made = waves(GRID, 12, 0.1, 0)
    ids = np.array([f"run{n}".encode() for n in range(12)])
    write_waves(tmp_path / "a.h5", GRID, {str(n + 1): m.T for n, m in enumerate(made)}, sim_ids=ids)
    values, table, reader = read(tmp_path)
    assert table["sample"].drop_duplicates().tolist() == list(range(1, 13))
    np.testing.assert_allclose(values[9 * CELLS], made[9, 0], rtol=1e-6)
    assert table["sim_id"].iloc[9 * CELLS] == "run9"
    assert [fault.reason for fault in reader.faults] == ["the file's name carries no parameters"]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        (
            "sim_data__stimMag_0.50_beta_0.40_noise_0.040_kcross_0.0050_nSamples_1000_5",
            {"stimMag": 0.5, "beta": 0.4, "noise": 0.04, "kcross": 0.005, "nSamples": 1000, "replicate": 5},
        ),
        ("x__noise_1e-3", {"noise": 0.001}),
        ("x__noise_0.1_kcross_5", {"noise": 0.1, "kcross": 5}),
        ("plain", {}),
    ],
)
def test_parameters_come_from_the_name(stem: str, expected: dict[str, float]) -> None:
    assert parameters(stem) == expected


def test_names_sort_with_numbers_as_numbers() -> None:
    assert sorted(["a10", "a2", "b1", "a2b"], key=natural) == ["a2", "a2b", "a10", "b1"]


def test_parameters_tissue_and_features_become_columns(tmp_path: Path) -> None:
    made = waves(GRID, 1, 0.1, 0)[0]
    peaks = np.full((3, CELLS), np.nan)
    peaks[0] = np.arange(CELLS)
    more = {
        "tissue__nTissueRows": 3, "tissue__stimCell": 5, "params__beta": 9.0, "params__gain": 2, "stim__onset": [7.0],
        "features__cMax__1": made.max(1), "features__tPeaks__1": peaks,
    }  # fmt: skip
    write_waves(tmp_path / "x__beta_0.40.h5", GRID, {"1": made.T}, **more)
    _, table, _ = read(tmp_path)
    assert table[["rows", "stim_cell", "beta", "gain", "onset"]].iloc[0].tolist() == [3, 5, 0.4, 2, 7]
    np.testing.assert_allclose(table["feature_cMax"], made.max(1), rtol=1e-6)
    assert np.array_equal(table["feature_tPeaks"].iloc[4], [4, np.nan, np.nan], equal_nan=True)
    branch = opened(tmp_path)
    assert "feature_cMax" in branch.items.table
    assert "feature_tPeaks" not in branch.items.table
    assert branch.baselines()["given"].features(np.arange(CELLS)).shape == (CELLS, 1)


def test_every_fault_is_named_to_the_sample_and_the_cell(tmp_path: Path) -> None:
    made = waves(GRID, 1, 0.1, 0)[0]
    gaps, empty = made.copy(), made.copy()
    gaps[3, 20:40] = np.nan
    empty[5] = np.nan
    short = made[:, :30]
    samples = {
        "1": made.T, "2": gaps.T, "3": empty.T, "4": short.T, "5": made[:4].T, "6": made[:, :1].T,
        "7": (1000 * made).astype(np.int16).T, "01": made.T, "last": made.T, "8": made.T[:, :, None],
        "9": np.array([b"x"] * CELLS), "10": np.zeros((CELLS, CELLS)),
    }  # fmt: skip
    write_waves(tmp_path / "x__noise_0.1.h5", GRID, samples, id=np.arange(3))
    values, table, reader = read(tmp_path)
    found = {(fault.sample, fault.cell): (fault.status, fault.reason) for fault in reader.faults}
    assert set(found) == {("", 0), ("3", 6), ("5", 0), ("6", 0), ("01", 0), ("last", 0), ("8", 0), ("9", 0), ("10", 0)}
    reasons = {
        ("", 0): "id has 3 entries for 10 samples", ("3", 6): "no finite value", ("5", 0): "shape (60, 4)",
        ("6", 0): "one time point", ("01", 0): "repeats '1'", ("last", 0): "no number",
        ("8", 0): "no matrix of numbers", ("9", 0): "no matrix of numbers", ("10", 0): "cannot be told",
    }  # fmt: skip
    assert all(text in found[place][1] for place, text in reasons.items())
    assert {status for status, _ in found.values()} == {"note", "skipped"}
    assert table.groupby("sample").size().to_dict() == {1: CELLS, 2: CELLS, 3: CELLS - 1, 4: CELLS, 7: CELLS}
    assert np.isnan(values[CELLS + 3, 20:40]).all()
    short_rows = values[table["sample"] == 4]
    assert np.isnan(short_rows[:, 30:]).all()
    assert np.isfinite(short_rows[:, :30]).all()
    np.testing.assert_allclose(values[table["sample"] == 7], (1000 * made).astype(np.int16))


def test_a_bad_file_is_a_row_and_the_good_ones_are_read(traces: Path, tmp_path: Path) -> None:
    good = next(traces.rglob("*.h5"))
    (tmp_path / "good.h5").write_bytes(good.read_bytes())
    (tmp_path / "cut.h5").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.h5").write_text("no data")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["timeTraces"] = h5py.ExternalLink(str(good), "/timeTraces")
    write_waves(tmp_path / "no distance.h5", [], {"1": np.zeros((9, 60))})
    _, _, reader = read(tmp_path)
    found = {row["file"]: (row["status"], row["reason"]) for row in reader.files}
    assert {name: status for name, (status, _) in found.items()} == {
        "good.h5": "ok", "cut.h5": "skipped", "text.h5": "skipped", "other.h5": "skipped", "linked.h5": "unsafe",
        "no distance.h5": "skipped",
    }  # fmt: skip
    assert "external link" in found["linked.h5"][1]
    assert "no group timeTraces" in found["other.h5"][1]
    branch = opened(tmp_path)
    assert branch.items.stamps == ("5 files, samples or cells could not be read and were left out",)
    with pytest.raises(UnsafeInput, match="external link"):
        opened(tmp_path / "linked.h5")
    with pytest.raises(NoUsableInput, match="cut off"):
        opened(tmp_path / "cut.h5")


def test_a_link_out_of_the_folder_is_not_followed(traces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "inside.h5").write_bytes(next(traces.rglob("*.h5")).read_bytes())
    (folder / "outside.h5").symlink_to(next(traces.rglob("*.h5")))
    assert [path.name for path in Reader(folder).paths] == ["inside.h5"]


def test_simulations_are_the_units_and_equal_ones_are_one(traces: Path, tmp_path: Path) -> None:
    branch = opened(traces)
    made = splits.resolve(branch.items, None, None, None)
    assert made.table["unit"].nunique() == 12
    assert (branch.items.table.groupby("unit").size() == CELLS).all()
    first = next(traces.rglob("*.h5"))
    for name in ("a.h5", "b.h5"):
        (tmp_path / name).write_bytes(first.read_bytes())
    again = splits.resolve(opened(tmp_path).items, None, None, None)
    assert again.table["source_id"].nunique() == 12
    assert again.table["unit"].nunique() == 6


def test_columns_of_one_file_do_not_depend_on_the_others(traces: Path) -> None:
    whole, one = opened(traces), opened(next(traces.rglob("*noise_0.020*.h5")))
    same = whole.items.table["noise"] == 0.02
    assert list(whole.items.table["source_hash"][same]) == list(one.items.table["source_hash"])
    assert np.array_equal(whole.traces.take(np.flatnonzero(same)), one.traces.take(np.arange(same.sum())))
