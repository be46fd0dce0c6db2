"""Extraction: one row a cell, streamed; what is in the table is what is in the files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import GRID, waves, write_waves

from cellvision import extract
from cellvision.branches import BRANCHES
from cellvision.branches.trace import files as tracefiles
from cellvision.branches.trace import store as tracestore
from cellvision.branches.trace.branch import TraceBranch
from cellvision.commandline.cli import main
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError, NoUsableInput

CELLS = len(GRID)


def run(raw: Path, out: Path) -> Path:
    extract.run(build(extract.Config, {"raw": raw}), out)
    return out


def test_a_row_a_cell_with_its_trace(traces: Path, tmp_path: Path) -> None:
    out = run(traces, tmp_path / "run")
    table = pd.read_feather(out / "traces.arrow")
    assert len(table) == 12 * CELLS
    first = next(traces.rglob("*noise_0.020*.h5"))
    rows = table[table["noise"] == 0.02].reset_index(drop=True)
    with h5py.File(first) as file:
        for sample in (1, 6):
            known = rows[rows["sample"] == sample]
            np.testing.assert_allclose(np.stack(known["trace"]).T, file[f"timeTraces/{sample}"][()], rtol=1e-6)
            assert known["distance"].tolist() == list(GRID)
    assert files.read_json(out / "metrics.json") == {
        "cells": 12 * CELLS, "files": 2, "files_ok": 2, "points": 60, "samples": 12, "skipped": 0,
    }  # fmt: skip


def test_the_branch_reads_the_same_from_the_table_as_from_the_files(traces: Path, tmp_path: Path) -> None:
    run(traces, tmp_path / "run")
    direct, mapped = (TraceBranch(TraceBranch.Config(), path) for path in (traces, tmp_path / "run"))
    pd.testing.assert_frame_equal(direct.items.table, mapped.items.table, check_like=True)
    rows = np.array([100, 3, 57, 3])
    assert np.array_equal(direct.traces.take(rows), mapped.traces.take(rows))


def test_what_files_hold_makes_a_run_not_when_they_were_written(traces: Path, tmp_path: Path) -> None:
    raw = shutil.copytree(traces, tmp_path / "raw")
    out = run(raw, tmp_path / "run")
    record = files.read_json(out / "run.json")
    first = next(raw.rglob("*noise_0.020*.h5"))
    os.utime(first, (1, 1))
    assert files.read_json(run(raw, out) / "run.json") == record
    status = first.stat()
    with h5py.File(first, "r+") as file:
        file["timeTraces/1"][0, 0] += 1
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert first.stat().st_size == status.st_size
    with pytest.raises(ConfigError, match="another configuration"):
        run(raw, out)


def test_batches_and_blocks_do_not_change_the_table(
    traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pd.read_feather(run(traces, tmp_path / "a") / "traces.arrow")
    monkeypatch.setattr(extract, "BATCH", 1)
    monkeypatch.setattr(tracefiles, "BLOCK", 4 * 60 * 8)  # four cells at a time
    parts = pd.read_feather(run(traces, tmp_path / "b") / "traces.arrow")
    pd.testing.assert_frame_equal(whole.drop(columns="source_hash"), parts.drop(columns="source_hash"))
    assert files.read_json(tmp_path / "b" / "metrics.json")["samples"] == 12


def test_longer_traces_and_new_columns_of_a_later_file_find_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "BATCH", 1)
    for number, points in enumerate((30, 50, 40)):
        samples = {"1": waves(GRID, 1, 0.1, number, points)[0].T}
        more = {"params__gain": 2.0} if number == 1 else {}
        write_waves(tmp_path / "raw" / f"x__noise_0.1_{number}.h5", GRID, samples, **more)
    table = pd.read_feather(run(tmp_path / "raw", tmp_path / "run") / "traces.arrow")
    values = np.stack(table["trace"])
    assert values.shape == (27, 50)
    assert np.isfinite(values).sum(1).tolist() == [30] * 9 + [50] * 9 + [40] * 9
    np.testing.assert_allclose(values[:9, :30], waves(GRID, 1, 0.1, 0, 30)[0], rtol=1e-6)
    assert table["gain"].isna().tolist() == [True] * 9 + [False] * 9 + [True] * 9
    assert not [path for path in (tmp_path / "run").iterdir() if "tmp" in path.name]


def test_what_is_left_out_is_listed_and_strict_exits_with_two(traces: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "good.h5").write_bytes(next(traces.rglob("*.h5")).read_bytes())
    (raw / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
    write_waves(raw / "few.h5", GRID, {"1": np.zeros((60, 4)), "2": waves(GRID, 1, 0.1, 0)[0].T})
    out = run(raw, tmp_path / "run")
    table, faults = pd.read_parquet(out / "files.parquet"), pd.read_csv(out / "faults.csv")
    assert table["status"].tolist() == ["skipped", "ok", "ok"]
    assert table["cells"].tolist() == [0, CELLS, 6 * CELLS]
    left = faults[faults["status"] != "note"]
    assert left["file"].tolist() == ["cut.h5", "few.h5"]
    assert left["sample"].tolist()[1] == 1
    assert main("extract", ["--raw", str(raw), "--out", str(out), "--strict"]) == 2
    assert BRANCHES.build("trace", path=out).items.stamps[0].startswith("2 files, samples or cells")


def test_nothing_to_extract_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NoUsableInput, match="no HDF5 files"):
        run(tmp_path, tmp_path / "run")
    (tmp_path / "x.h5").write_text("text")
    assert main("extract", ["--raw", str(tmp_path), "--out", str(tmp_path / "other")]) == 3


def test_another_folder_is_refused_in_the_same_place(traces: Path, tmp_path: Path) -> None:
    run(traces, tmp_path / "run")
    with pytest.raises(ConfigError, match="another configuration"):
        run(traces / "part0", tmp_path / "run")


def test_the_preview_sums_up_the_first_samples_of_each_file(traces: Path, tmp_path: Path) -> None:
    preview = pd.read_csv(run(traces, tmp_path / "run") / "preview.csv")
    assert preview["file"].nunique() == 2
    assert set(preview["samples"]) == {3}
    assert set(preview["cells"]) == {3 * CELLS}
    distance = preview[preview["column"] == "distance"].iloc[0]
    assert (distance["least"], distance["most"], distance["different"]) == (0, 2, 3)
    trace = preview[preview["column"] == "trace"].iloc[0]
    assert trace["missing"] == 0
    with h5py.File(next(traces.rglob("*noise_0.020*.h5"))) as file:
        first = np.stack([file[f"timeTraces/{sample}"][()] for sample in (1, 2, 3)])
    assert trace["most"] == pytest.approx(first.max(), rel=1e-5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    """Four times the files need no more memory: one batch is held."""
    samples = {str(key): np.random.default_rng(key).normal(size=(1001, 49)) for key in range(1, 41)}
    far = np.arange(49) % 7
    peaks = []
    for count in (2, 8):
        raw = tmp_path / f"raw{count}"
        for number in range(count):
            write_waves(raw / f"x__noise_0.1_{number}.h5", far, samples)
        code = (
            "import re; from pathlib import Path; from cellvision import extract\n"
            f"extract.run(extract.Config(raw=Path({str(raw)!r})), Path({str(tmp_path / f'out{count}')!r}))\n"
            "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 40  # MiB; the six more files hold 47 MiB of float32
    assert max(peaks) < 1024


def test_mapped_traces_travel_to_other_processes(traces: Path, tmp_path: Path) -> None:
    import pickle

    out = run(traces, tmp_path / "run")
    values, _ = tracestore.from_extraction(out / "traces.arrow")
    data = pickle.dumps(values)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert np.array_equal(again.take(np.array([5, 90])), values.take(np.array([5, 90])))
