"""The trace branch: what files and tables turn into, its networks and views, the ordinal loss, and the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GRID, waves, write_waves

from cellvision import ablate, embed, extract, finetune, plan, predict, pretrain, report, simulate
from cellvision.branches import BRANCHES, Augment
from cellvision.branches.trace import branch as branch_module
from cellvision.branches.trace import tables as tracetables
from cellvision.branches.trace.features import ends, summary
from cellvision.branches.trace.files import Reader, natural, parameters
from cellvision.branches.trace.networks import RandomKernels, network, pooled
from cellvision.branches.trace.store import collected
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, NoUsableInput, StrategyRefused, UnsafeInput
from cellvision.core.rng import generator
from cellvision.evidence import baselines, scoring, splits, targets
from cellvision.evidence.problem import Supervised
from cellvision.simulators import calcium
from cellvision.strategies import STRATEGIES, Labelled

CELLS = len(GRID)


def opened(path: Path, **options: Any) -> Any:
    return BRANCHES.build({"name": "trace", **options}, path=path)


def read(path: Path) -> tuple[Any, pd.DataFrame, Reader]:
    reader = Reader(path)
    values, table = collected(reader.blocks())
    return values.take(np.arange(len(values)))[:, 0], table, reader


# -- simulation files --


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
    assert [path.name for path in Reader(folder).paths()] == ["inside.h5"]


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


# -- tables --


def table_of(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def wide_text(rows: list[str]) -> str:
    names = [f"{channel}_{time}" for channel in ("ERK", "AKT") for time in range(8)]
    return "\n".join([",".join(["ID", "class", *names]), *rows]) + "\n"


def test_wide_tables_have_channels_and_gaps(tmp_path: Path) -> None:
    rows = ["a,x," + ",".join([""] * 3 + ["1"] * 5 + ["2"] * 8), "b,y," + ",".join(["3"] * 8 + ["4"] * 7 + ["inf"])]
    branch = opened(table_of(tmp_path, wide_text(rows)))
    assert branch.channels == ("ERK", "AKT")
    values = branch.traces.take(np.arange(2))
    assert np.array_equal(values[0, 0], [np.nan] * 3 + [1] * 5, equal_nan=True)
    assert np.array_equal(values[1, 1], [4] * 7 + [np.nan], equal_nan=True)
    with pytest.raises(ConfigError, match="rows of a table are not independent"):
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
        (wide_text(["a,x," + ",".join(["1"] * 18)]), r"line 2 has more fields"),
        (wide_text(["a,x," + ",".join(["1"] * 16)] * 2), "item_id must be unique; 'a'"),
        (wide_text(["a,x," + "1," * 15 + "1", "b,y,1,2"]), "header has 18 fields, but line 3 has 4"),
        (wide_text(["a,x," + "1," * 15 + "1", "b,y" + ",1" * 17]), "header has 18 fields, but line 3 has 19"),
        (wide_text(["a,x," + "1," * 15 + "1"]).replace("ERK_1", "ERK_0"), "such as 'ERK_0' .columns 3, 4.; rename"),
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
    [("", "is empty"), (wide_text([]), "no trace with a finite"), (wide_text(["a,x," + "," * 15]), "no trace with a")],
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


# -- batches --


def test_scaling_knows_the_training_rows_only(traces: Path) -> None:
    branch = opened(traces, scale="train")
    rows = np.arange(20)
    state = branch.fit(rows)
    values = branch.batch(rows, state)[:, 0]
    assert values.mean() == pytest.approx(0, abs=1e-4)
    assert values.std() == pytest.approx(1, abs=1e-3)
    known = branch.traces.take(rows)
    np.testing.assert_allclose(state["mean"], known.mean(), rtol=1e-4)
    np.testing.assert_allclose(state["std"], known.std(), rtol=1e-4)


def test_unknown_points_are_zero_and_masked(tmp_path: Path) -> None:
    rows = ["a,x," + ",".join([""] * 3 + ["1"] * 2 + ["5"] * 3 + ["2", "3"] * 4), "b,y," + ",".join(["3", "1"] * 8)]
    branch = opened(table_of(tmp_path, wide_text(rows)))
    batch = branch.batch(np.arange(2), branch.fit(np.arange(2)))
    assert batch.shape == (2, 8, 8)  # two scales of two channels, and their masks
    assert (batch[0, [0, 2], :3] == 0).all()
    assert np.array_equal(batch[0, 4], [0, 0, 0, 1, 1, 1, 1, 1])
    assert (batch[1, 4:] == 1).all()


def test_bins_are_means_of_what_is_known() -> None:
    values = np.array([[[1, 3, np.nan, 5, np.nan, np.nan, 7]]], np.float32)
    assert branch_module.bins(7, 4) == (4, 2)
    np.testing.assert_array_equal(branch_module.binned(values, 4)[0, 0], [2, 5, np.nan, 7])
    assert branch_module.binned(values, 7) is values


def test_weak_views_keep_time_and_hide_at_most_the_crop(traces: Path) -> None:
    branch = opened(traces, scale="train", crop=0.3)
    rows = np.arange(60)
    state = branch.fit(rows)
    plain, weak = branch.batch(rows, state), branch.batch(rows, state, Augment("weak", (0, 1)))
    shown = weak[:, 1] > 0
    assert shown.mean(1).min() >= 0.69
    assert shown.mean(1).max() > 0.95
    same = [np.corrcoef(a[s], b[s])[0, 1] for a, b, s in zip(plain[:, 0], weak[:, 0], shown, strict=True)]
    assert np.median(same) > 0.95
    assert np.array_equal(branch.batch(rows, state, Augment("pose", (3,))), plain)


def test_traces_of_other_length_and_channels_are_aligned_by_name(tmp_path: Path) -> None:
    def write(name: str, channels: list[str], points: int) -> Path:
        columns = {f"{c}_{t}": np.arange(3) + t + 100 * ord(c[0]) for c in channels for t in range(points)}
        pd.DataFrame({"ID": ["a", "b", "c"], **columns}).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    five = ["A", "B", "C", "D", "E"]
    old, new = opened(write("old.csv", five, 12)), opened(write("new.csv", ["E", "D", "B", "A"], 20))
    state = old.fit(np.arange(3))
    notes = new.check(old.schema())
    assert notes == ["missing channels, taken as unknown: C", "traces of 20 points are cut to the model's 12"]
    before, after = old.batch(np.arange(3), state), new.batch(np.arange(3), state)
    present = [0, 1, 3, 4]
    np.testing.assert_allclose(before[:, present], after[:, present])
    assert (after[:, 10 + 2] == 0).all()
    with pytest.raises(ConfigError, match="2 of the model's 5 channels are missing, such as 'A'"):
        opened(write("few.csv", ["B", "C", "D"], 12)).check(old.schema())


# -- networks and features --


@pytest.mark.parametrize("name", ["mlp-16-8", "cnn-8-16", "inception-4-2", "resnet-8-2", "kernels-20", "joint-20-8-16"])
@pytest.mark.parametrize("points", [8, 61])
def test_every_network_gives_finite_features_even_of_nothing(name: str, points: int) -> None:
    torch.manual_seed(0)
    made = network(name, 2, points).eval()
    traces = torch.randn(3, 4, points)
    traces[:, 2:] = 1
    traces[2] = 0
    features = made(traces)
    assert features.shape == (3, made.num_features)
    assert torch.isfinite(features).all()
    assert not torch.equal(features[0], features[1])


def test_an_unknown_network_names_the_known_ones(traces: Path) -> None:
    branch = opened(traces)
    for name in ("lstm-3", "mlp", "inception-4", "cnn-a"):
        with pytest.raises(ConfigError, match="encoders such as mlp-256-128"):
            branch.network(name, branch.fit(np.arange(9)))


def test_pooling_looks_at_known_points_only() -> None:
    features, known = torch.arange(12.0).reshape(1, 2, 6), torch.tensor([[[0, 1.0, 1, 0, 0, 0]]])
    assert pooled(features, known).tolist() == [[1.5, 7.5, 2.0, 8.0]]


def test_random_kernels_ignore_level_scale_and_what_is_hidden() -> None:
    kernels = RandomKernels(1, 60, 50).eval()
    torch.manual_seed(0)
    values, known = torch.randn(4, 1, 60), torch.ones(4, 1, 60)
    known[:, :, 40:] = 0
    plain = kernels(torch.cat([values * known, known], 1))[:, 2:]
    moved = kernels(torch.cat([(3 * values + 5) * known, known], 1))[:, 2:]
    torch.testing.assert_close(plain, moved, rtol=1e-3, atol=1e-3)
    share = plain[:, : kernels.get_parameter("bias_1").numel()]
    assert ((share >= 0) & (share <= 1.0001)).all()
    other = values.clone()
    other[:, :, 40:] = 99
    torch.testing.assert_close(plain, kernels(torch.cat([other * known, known], 1))[:, 2:])


def test_random_kernels_equal_slow_ones() -> None:
    kernels = RandomKernels(1, 30, 6).eval()
    torch.manual_seed(0)
    values = torch.randn(1, 1, 30)
    found = kernels(torch.cat([values, torch.ones_like(values)], 1))[0]
    flat = (values[0, 0] - values.mean()) / values.std(correction=0)
    expected = [values.mean(), values.std(correction=0)]
    for dilation in kernels.dilations:
        weight, bias = getattr(kernels, f"weight_{dilation}"), getattr(kernels, f"bias_{dilation}")
        outputs = []
        for number in range(len(bias)):
            row = []
            for time in range(30):
                reach = [time + dilation * (tap - 5) for tap in range(11)]
                row.append(
                    bias[number]
                    + sum(weight[number, 0, tap] * flat[at] for tap, at in enumerate(reach) if 0 <= at < 30)
                )
            outputs.append(torch.stack(row))
        expected += [(row > 0).float().mean() for row in outputs] + [row.max() for row in outputs]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_summary_statistics_have_known_answers() -> None:
    trace = np.full((1, 1, 20), np.nan, np.float32)
    trace[0, 0, 5:15] = [0, 0, 0, 0, 4, 4, 0, 0, 0, 2]
    found = summary(trace)
    assert found.shape == (1, 24)
    assert found[0, 0] == pytest.approx(1.0)
    assert found[0, 7] == 4
    assert found[0, 11] == 9  # time of the maximum
    assert ends(trace).tolist() == [[5, 15, 10]]
    both = summary(np.concatenate([trace, trace + 1], 1))
    assert np.array_equal(both[:, :24], found, equal_nan=True)


def test_ridge_separates_and_its_probabilities_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    features = (rng.normal(size=(90, 5)) + 3 * np.eye(3, 5)[label]).astype(np.float32)
    found = baselines.fit_predict(baselines.estimator("ridge", 0), features, label, features, 3)
    assert (found.argmax(1) == label).mean() > 0.9
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    two = baselines.fit_predict(baselines.estimator("ridge", 0), features, label % 2, features, 2)
    np.testing.assert_allclose(two.sum(1), 1, rtol=1e-5)


# -- ordered labels --


def test_numbers_are_ordered_and_words_are_not(traces: Path) -> None:
    items = opened(traces).items
    assert targets.read(items, "distance").ordered
    items.table["far"] = items.table["distance"].map({0: "2", 1: "10", 2: "9"})
    assert targets.read(items, "far").classes == ("2", "9", "10")
    items.table["word"] = items.table["distance"].map({0: "a", 1: "b", 2: "3"})
    assert not targets.read(items, "word").ordered
    assert not targets.read(items, "noise").ordered  # two classes have no order to speak of


def test_corn_equals_the_slow_one() -> None:
    strategy = STRATEGIES.build("ordinal")
    torch.manual_seed(0)
    head, features = strategy.head(6, 4), torch.randn(10, 6)
    label = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 2, 3])
    score, total, count = head(features), 0.0, 0
    for item in range(10):
        for step in range(3):
            if label[item] >= step:
                chance = torch.sigmoid(score[item, step])
                total -= float(torch.log(chance if label[item] > step else 1 - chance))
                count += 1
    found = strategy.loss(head, features, torch.zeros(10, dtype=torch.long), label)
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_ordinal_is_refused_for_words(traces: Path, tmp_path: Path) -> None:
    tiny = {"items": traces, "branch": "trace", "encoder": "mlp-8", "strategy": "ordinal", "workers": 0, "threads": 1}
    with pytest.raises(StrategyRefused, match="not three or more numbers"):
        finetune.run(build(finetune.Config, {**tiny, "target": "file"}), tmp_path / "run")


def test_absolute_error_counts_steps() -> None:
    rows = pd.DataFrame(
        {"unit": ["a", "a", "b", "b"], "truth": ["0", "2", "10", "1"], "predicted": ["0", "1", "2", ""]}
    )
    found = scoring.absolute_error(rows)
    assert found.value == pytest.approx(3.0)
    assert found.units == 2


# -- balance and subsets --


def problem_of(branch: Any, fold: str = "0", only: str | None = None) -> Supervised:
    made = splits.resolve(branch.items, None, None, None)
    return Supervised(branch, made, targets.read(branch.items, "distance", (), only), fold, 0)


def test_classes_are_balanced_by_exact_target_among_training_rows_only(traces: Path) -> None:
    """One cell in nine is the middle; it is drawn as often as the others, and only from training simulations."""
    problem = problem_of(opened(traces))
    train, strategy = problem.train_rows(0), STRATEGIES.build("inherit")
    labelled = Labelled(problem.bags(train)[0], problem.target.label[train])
    drawn = strategy.draw(generator(0), labelled, 6000)
    share = np.bincount(labelled.label[drawn]) / 6000
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    assert set(problem.unit[train][drawn]) == set(problem.unit[train])
    assert not set(problem.unit[train]) & set(problem.unit[problem.test_rows(0)])


def test_only_leaves_the_other_items_out_of_fitting_and_scoring(traces: Path) -> None:
    problem = problem_of(opened(traces), "all", "noise=0.2")
    rows = np.concatenate([problem.test_rows(fold) for fold in problem.folds])
    assert set(problem.items.table["noise"].iloc[rows]) == {0.2}
    assert len(rows) == 6 * CELLS
    for wrong, message in (("noise=7", "no item has noise=7; values: 0.02, 0.2"), ("colour=1", "COLUMN=VALUE")):
        with pytest.raises(ConfigError, match=message):
            problem_of(opened(traces), "all", wrong)


# -- the simulator --


def test_a_wave_reaches_far_cells_later_and_lower() -> None:
    tissue = calcium.Tissue(5, 12, 0.5, 0.1, 0.2, 0.0)
    found = calcium.simulate(tissue, 4, 301, np.random.default_rng(0))
    assert found.shape == (4, 25, 301)
    distance = tissue.distance()
    assert distance.reshape(5, 5)[2].tolist() == [2, 1, 0, 1, 2]
    assert distance[0] == 4
    rise = found - found[:, :, :8].mean(2, keepdims=True)
    high = [rise[:, distance == d].max(2).mean() for d in range(4)]
    assert high == sorted(high, reverse=True)
    assert high[0] > 1.5 * high[3]
    late = [rise[:, distance == d].argmax(2).mean() for d in range(3)]
    assert late == sorted(late)


def test_without_a_stimulus_nothing_travels_and_noise_is_what_it_says() -> None:
    quiet = calcium.Tissue(3, 4, 0.0, 0.05, 0.2, 0.0)
    found = calcium.simulate(quiet, 3, 101, np.random.default_rng(0))
    assert np.ptp(found[:, :, 20:], axis=2).max() < 0.05
    loud = calcium.simulate(calcium.Tissue(3, 4, 0.0, 0.05, 0.2, 0.05), 3, 101, np.random.default_rng(0))
    assert np.diff(loud, axis=2).std() / np.sqrt(2) == pytest.approx(0.05, rel=0.1)


def test_exchange_keeps_the_sum_and_flows_between_neighbours_only() -> None:
    ip3 = np.zeros((1, 9))
    ip3[0, 4] = 1.0
    flow = calcium._exchange(np.ones((1, 9)), ip3, 3).reshape(3, 3)
    assert flow.sum() == pytest.approx(0)
    assert flow.tolist() == [[0, 1, 0], [1, -4, 1], [0, 1, 0]]


def test_simulate_writes_files_as_matlab_does_and_resumes(tmp_path: Path) -> None:
    some = {"noise": [0.01, 0.05], "samples": 2, "side": 3, "points": 31}
    cfg = build(simulate.Config, {"kind": "calcium", "calcium": some, "workers": 0})
    simulate.run(cfg, tmp_path / "a")
    simulate.run(cfg, tmp_path / "b")
    first, second = (sorted((tmp_path / run / "raw").iterdir()) for run in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with h5py.File(first[0]) as file:
        assert file["timeTraces/1"].shape == (31, 9)
        assert file["tissue/stimCell"][()] == 5
    table = opened(tmp_path / "a").items.table
    assert sorted(table["noise"].unique()) == [0.01, 0.05]
    assert table["unit"].nunique() == 4
    assert set(table["distance"]) == {0, 1, 2}
    wrong = build(simulate.Config, {"kind": "calcium", "calcium": some | {"stim": 9}})
    with pytest.raises(ConfigError, match="0 to 8, got 9"):
        simulate.run(wrong, tmp_path / "c")


# -- the whole chain --


LOOP = {"steps": 40, "batch": 48, "lr": 0.01}
COMMON: dict[str, Any] = {"branch": "trace", "workers": 0, "threads": 1, "device": "cpu"}


def run(stage: Any, out: Path, **options: Any) -> Path:
    known = {key: value for key, value in COMMON.items() if key in stage.Config.model_fields}
    stage.run(build(stage.Config, known | options), out)
    return out


def metrics_of(out: Path) -> dict[str, Any]:
    return dict(files.read_json(out / "metrics.json"))


def test_traces_go_through_every_verb(traces: Path, tmp_path: Path) -> None:
    items = run(extract, tmp_path / "items", raw=traces)
    planned = run(plan, tmp_path / "plan", items=items, folds=3)
    assert files.read_json(planned / "plan.json")["units"] == 12
    learned = run(
        pretrain, tmp_path / "ssl", items=items, splits=planned, encoder="cnn-8-16", loop={"steps": 6, "batch": 24}
    )
    embedded = metrics_of(
        run(embed, tmp_path / "emb", items=items, splits=planned, encoder=str(learned), target="distance")
    )
    assert embedded["folds_probed"] == 1
    options: dict[str, Any] = {"items": items, "splits": planned, "target": "distance", "tune": "whole", "loop": LOOP}
    tuned = metrics_of(run(finetune, tmp_path / "ft", encoder="cnn-8-16", **options))
    assert tuned["balanced_accuracy"] > 0.7
    assert tuned["balanced_accuracy_units"] == 12
    assert tuned["mean_absolute_error"] < 0.5
    assert tuned["stamps"] == []
    assert {"baseline_kernels", "baseline_summary", "above_kernels_low", "probe_item_random"} <= set(tuned)
    model = run(finetune, tmp_path / "all", encoder=str(learned), fold="none", **options) / "model"
    for new in (traces, items):
        predicted = run(predict, tmp_path / f"new-{new.name}", model=model, items=new)
        assert len(pd.read_parquet(predicted / "predictions.parquet")) == 12 * CELLS


def test_the_study_of_noise_is_one_ablation(traces: Path, tmp_path: Path) -> None:
    out = run(
        ablate, tmp_path / "run", items=traces, target="distance", by="noise", folds=2, seeds=[0],
        base={"tune": "whole", "encoder": "cnn-8-16", "loop": LOOP},
        arms={"global": {}, "ordinal": {"strategy": "ordinal"}, "noise 0.2 alone": {"only": "noise=0.2"}},
    )  # fmt: skip
    by, summary_table = pd.read_csv(out / "by.csv"), pd.read_csv(out / "summary.csv")
    alone = by[by["arm"] == "noise 0.2 alone"]
    assert alone["noise"].tolist() == [0.2]
    whole = by[by["arm"] == "global"].set_index("noise")
    assert whole["scored"].to_dict() == {0.02: 6 * CELLS, 0.2: 6 * CELLS}
    assert whole["balanced_accuracy"][0.02] > whole["balanced_accuracy"][0.2]
    assert {"baseline: kernels", "baseline: summary"} <= set(by["arm"])
    assert summary_table["mean_absolute_error"].notna().all()
    differences = pd.read_csv(out / "differences.csv").set_index("arm")
    assert differences.loc["noise 0.2 alone", "difference_units"] == 6
    assert (out / "by.png").stat().st_size > 5000
    report.write(out, tmp_path / "report.html")
    assert "noise 0.2 alone" in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(ConfigError, match="no column 'colour'"):
        run(ablate, tmp_path / "no", items=traces, target="distance", by="colour", arms={"a": {}})
