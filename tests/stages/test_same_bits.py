"""The same call gives the same bits, by command line or Python, in any number of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_runs import run

from cellvision import finetune
from cellvision.__main__ import dispatch
from cellvision.commandline.cli import main
from cellvision.core.errors import ConfigError
from cellvision.core.rundir import content_of


def test_command_line_and_python_are_one_call(cells: Path, planned: Path, tested: Path, tmp_path: Path) -> None:
    inputs = ["--items", str(cells), "--splits", str(planned), "--encoder", "test_resnet", "--size", "32"]
    options = ["--steps", "3", "--batch", "16", "--workers", "0", "--threads", "1", "--device", "cpu"]
    assert dispatch(["finetune", *inputs, *options, "--out", str(tmp_path / "a")]) == 0
    assert content_of(tmp_path / "a") == content_of(tested)
    written = str(tested / "config.yaml")  # running the written config again repeats the run
    assert main("finetune", ["--config", written, "--out", str(tmp_path / "b")]) == 0
    assert content_of(tmp_path / "b") == content_of(tested)


def test_folds_give_the_same_bits_in_any_number_of_processes(
    cells: Path, planned: Path, tested: Path, tmp_path: Path
) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, workers=2)
    assert content_of(out) == content_of(tested)


def test_training_gives_the_same_bits_with_any_number_of_workers(cells: Path, planned: Path, tmp_path: Path) -> None:
    contents = {
        content_of(run(finetune, tmp_path / str(n), items=cells, splits=planned, fold="1", tune="whole", workers=n))
        for n in (0, 1, 2)
    }
    assert len(contents) == 1


def test_another_seed_gives_other_weights(cells: Path, planned: Path, tested: Path, tmp_path: Path) -> None:
    out = run(finetune, tmp_path / "run", items=cells, splits=planned, seed=1, baselines=False)
    first, other = (pd.read_parquet(path / "predictions.parquet")["p_rbc"] for path in (tested, out))
    assert not np.allclose(first, other)


def test_a_finished_run_is_reused_at_once(
    cells: Path, planned: Path, tested: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tested.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(finetune, "run_folds", None)
    run(finetune, tested, items=cells, splits=planned, workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(ConfigError, match="another configuration"):
        run(finetune, tested, items=cells, splits=planned, seed=2)
