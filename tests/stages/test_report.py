"""report: every stage has a section of its own, with its numbers, pictures, first rows, stamps and the command."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_runs import metrics_of, run

from cellvision import cluster, embed, extract, importance, report
from cellvision.commandline.cli import main, read_config
from cellvision.core import files, rundir
from cellvision.core.config import build, result_keys

Request = pytest.FixtureRequest


def of_cluster(request: Request, tmp: Path) -> Path:
    options = {"items": request.getfixturevalue("expression"), "target": "kind", "unit": "donor", "method": "louvain"}
    cluster.run(build(cluster.Config, options | {"projections": ["pca"], "repeats": 1}), tmp / "run")
    return tmp / "run"


def of_importance(request: Request, tmp: Path) -> Path:
    options = {"items": request.getfixturevalue("table"), "branch": "tabular", "target": "y", "unit": "row"}
    importance.run(build(importance.Config, options | {"model": "logistic", "repeats": 1}), tmp / "run")
    return tmp / "run"


def of_embed(request: Request, tmp: Path) -> Path:
    return run(embed, tmp / "run", items=request.getfixturevalue("cells"), splits=request.getfixturevalue("planned"))


def of_extract(request: Request, tmp: Path) -> Path:
    extract.run(build(extract.Config, {"raw": request.getfixturevalue("traces")}), tmp / "run")
    return tmp / "run"


def of_train_segmenter(request: Request, tmp: Path) -> Path:
    return Path(request.getfixturevalue("trained_segmenter")) / "out"


STAGES: dict[str, tuple[Callable[[Request, Path], Path], dict[str, Any], tuple[str, ...], int]] = {
    # stage: its run, numbers that must stand on the page as in metrics.json, words, pictures at least
    "cluster": (of_cluster, {"clusters": "{} clusters of", "stability_ari": "{:.3f} on average"},
                ("clusters.csv: the first 10 of 120", "Markers", "clusters are no finding"), 3),
    "importance": (of_importance, {"balanced_accuracy": "accuracy {:.3f} ("},
                   ("importance, nats", "rows assumed independent", "f0"), 1),
    "embed": (of_embed, {"linear_balanced_accuracy": "{:.3f} (", "baseline_colour": "<td>{:.3f} ("},
              ("units", "recall, linear probe", "95 % over units"), 1),
    "extract": (of_extract, {"cells": "{} cells of 60 time points"}, ("Files", "MB", "distance"), 1),
    "train_segmenter": (of_train_segmenter, {"ap_50_after": "{:.3f} (", "ap_50_before": "{:.3f} ("},
                        ("held-out image", "count error", "scores.parquet"), 1),
}  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_section_of_its_own(stage: str, request: Request, tmp_path: Path) -> None:
    make, numbers, words, pictures = STAGES[stage]
    folder = make(request, tmp_path)
    report.run(report.Config(run=folder), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    for name, form in numbers.items():
        assert form.format(metrics_of(folder)[name]) in text
    for word in words:
        assert word in text
    assert text.count("data:image/png") >= pictures
    assert "<td>nan</td>" not in text
    assert_repeats(text, folder)


@pytest.mark.parametrize("make", [of_embed, of_extract])
def test_a_run_made_before_its_stage_drew_a_picture_has_a_page(
    make: Callable[[Request, Path], Path], request: Request, tmp_path: Path
) -> None:
    folder = make(request, tmp_path)
    for picture in folder.glob("*.png"):
        picture.unlink()
    files.write_json(folder / "run.json", files.read_json(folder / "run.json") | {"content": rundir.seal(folder)})
    report.run(report.Config(run=folder), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "headline" in text
    assert "data:image/png" not in text


def assert_repeats(text: str, folder: Path) -> None:
    """The command on the page makes the same configuration again."""
    command = re.search(r"To repeat it: <code>(.*?)</code>", text)
    assert command is not None
    name, stage, *arguments = shlex.split(command[1])
    record = files.read_json(folder / "run.json")
    assert (name, stage) == ("cellvision", record["stage"])
    _, cfg, out = read_config(stage, arguments)
    assert result_keys(cfg) == record["config"]
    assert out != folder


def test_a_stage_without_a_section_shows_its_numbers(simulated: Path, tmp_path: Path) -> None:
    report.run(report.Config(run=simulated), tmp_path / "page.html")
    assert f"<td>{metrics_of(simulated)['cells']}</td>" in (tmp_path / "page.html").read_text("utf-8")


def scored(score: float, shortcut: float, names: list[str]) -> dict[str, Any]:
    metrics = {"balanced_accuracy": score, "balanced_accuracy_units": 12, "baseline_depth": shortcut}
    return {"stage": "finetune", "metrics": metrics | {"shortcuts": names}}


def test_a_page_without_out_lies_beside_the_run_and_leaves_it_as_it_was(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(simulated, tmp_path / "run")
    before = files.hash_tree(copy, rundir.BOOKKEEPING)
    assert main("report", [str(copy)]) == 0
    assert (copy / "report.html").is_file()
    assert str(copy / "report.html") in capsys.readouterr().err
    assert files.hash_tree(copy, rundir.BOOKKEEPING) == before == rundir.content_of(copy)


def test_a_shortcut_is_named_by_what_the_branch_calls_one() -> None:
    lines = list(report.shortcuts(scored(0.8, 0.75, ["depth"])))
    assert len(lines) == 1
    assert "'depth'" in lines[0]
    assert "12 units" in lines[0]
    assert not list(report.shortcuts(scored(0.8, 0.75, [])))
    assert not list(report.shortcuts(scored(0.8, 0.3, ["depth"])))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (12.3456, "12.35"), (3.0, "3"), (np.nan, ""), (None, ""), (7, "7"), ("'=1+1", "=1+1")],
)
def test_a_value_is_shown_as_a_person_would_write_it(value: Any, text: str) -> None:
    assert report.shown(value) == text


def test_a_long_table_says_how_long_it_is() -> None:
    table = report.first_rows(pd.DataFrame({"a_b": range(50)}))
    assert table["columns"] == ["a b"]
    assert (len(table["rows"]), table["total"]) == (report.FIRST, 50)
