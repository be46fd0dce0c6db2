"""--branch is told from the file, said in one line, and asked for where the file leaves a choice."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from cellvision import cluster, finetune, importance, plan
from cellvision.branches import BRANCHES, recognise
from cellvision.commandline import cli
from cellvision.core.config import build
from cellvision.core.errors import ConfigError

VALUES = np.random.default_rng(0).poisson(3, (6, 12))


def frame(columns: list[str], **first: Any) -> Any:
    return pd.DataFrame(VALUES[:, : len(columns)], columns=columns).assign(**first)


def csv(table: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        table.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"

    return write


def tenx_folder(folder: Path) -> Path:
    for name in ("GSM1_features.tsv.gz", "GSM1_barcodes.tsv.gz", "GSM1_matrix.mtx.gz"):
        (folder / name).write_bytes(gzip.compress(b"x\n"))
    return folder


def hdf5(*names: str, suffix: str = ".h5") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with h5py.File(folder / f"a{suffix}", "w") as file:
            for name in names:
                file[name] = VALUES
        return folder / f"a{suffix}"

    return write


def folder_of(*names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name in names:
            (folder / name).write_text("ImageNumber,ObjectNumber,AreaShape_Area\n1,1,5\n")
        return folder

    return write


KNOWN: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "measurements": (csv(frame(["area", "mean", "y"])), "tabular"),
    "CellProfiler": (csv(frame(["ImageNumber", "ObjectNumber", "AreaShape_Area"])), "tabular"),
    "CellProfiler's folder": (folder_of("Cells.csv", "Image.csv"), "tabular"),
    "genes in rows": (csv(frame(["GENE", "c1", "c2", "c3"])), "rna"),
    "genes in columns": (csv(frame(["", *(f"ENSG{n:011d}" for n in range(9))])), "rna"),
    "barcodes in columns": (csv(frame(["", *(f"AAACCTGAG{'ACGT'[n % 4]}C-{n}" for n in range(9))])), "rna"),
    "columns named by time": (csv(frame(["id", *(f"ERK_{2.5 * n}min" for n in range(9))])), "trace"),
    "10x folder": (tenx_folder, "rna"),
    "10x h5": (hdf5("matrix/barcodes", "matrix/data"), "rna"),
    "old 10x h5": (hdf5("GRCh38/barcodes", "GRCh38/genes"), "rna"),
    "h5 like h5ad": (hdf5("obs/x", "var/x", "X"), "rna"),
    "simulation": (hdf5("timeTraces/1", "tissue/distanceToTarget"), "trace"),
    "MATLAB": (hdf5("F", suffix=".mat"), "trace"),
    "an empty folder": (lambda folder: folder, None),
    "nothing": (lambda folder: folder / "nothing.csv", None),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_a_file_tells_its_branch(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write, branch = KNOWN[name]
    recognise.say_once.cache_clear()
    path = write(tmp_path)
    assert recognise.branch_of(path) == branch
    assert capsys.readouterr().err.count("\n") == (branch is not None)
    if branch:
        assert build(plan.Config, {"items": path}).branch.name == branch


@pytest.mark.parametrize(
    "table",
    [frame([f"f{n}" for n in range(12)]), frame([f"ERK_{n}" for n in range(9)], ID=1),
     pd.DataFrame({"track_id": [1] * 6, "time": range(6), "area": range(6)})],
    ids=["features or points", "points or features", "long"],
)  # fmt: skip
def test_where_a_table_leaves_a_choice_it_is_asked(tmp_path: Path, table: Any) -> None:
    path = csv(table)(tmp_path)
    with pytest.raises(ConfigError, match=r"may be items of tabular or trace .*; say which with --branch"):
        build(plan.Config, {"items": path})
    for name in ("tabular", "trace"):
        assert build(plan.Config, {"items": path, "branch": name}).branch.name == name
        assert build(plan.Config, {"items": path, "branch": {"name": name}}).branch.name == name


@pytest.mark.parametrize("stage", [plan, finetune, cluster, importance], ids=lambda stage: stage.__name__)
def test_options_of_the_told_branch_are_flags(tmp_path: Path, stage: Any) -> None:
    path = csv(frame(["area", "mean", "y"]))(tmp_path)
    name = stage.__name__.rpartition(".")[2]
    given = ["--items", str(path), "--branch.exclude", "mean", "--out", str(tmp_path / "out")]
    cfg = cli.read_config(name, given)[1]
    assert cfg.branch == BRANCHES.config({"name": "tabular", "exclude": ("mean",)})
    cfg = cli.read_config(name, [*given[:2], "--set", "branch.clip=3", *given[4:]])[1]
    assert cfg.branch == BRANCHES.config({"name": "tabular", "clip": 3.0})
    with pytest.raises(ConfigError, match=r"unrecognized arguments: --branch.exclude"):
        cli.read_config(name, [*given, "--branch", "trace"])


@pytest.mark.parametrize("name", ["tabular", "rna", "trace", "image"])
def test_the_sample_of_a_branch_is_recognised(tmp_path: Path, name: str) -> None:
    sample = BRANCHES.load(name).sample(tmp_path)
    assert recognise.branch_of(sample.items) == name
