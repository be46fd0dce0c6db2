"""study and report: from raw images to a page that needs no other file."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from tiny_runs import SOURCES, metrics_of, run

from cellvision import predict, report, study
from cellvision.commandline.cli import main, read_config
from cellvision.core import files


def self_contained(page: Path) -> str:
    text = page.read_text("utf-8")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'>\s]+""", text)
    assert not re.findall(r"@import|url\(\s*['\"]?http", text)
    return text


def test_report_of_an_ablation_names_units_and_refusals(ablation: Path, tmp_path: Path) -> None:
    report.run(report.Config(run=ablation), tmp_path / "report.html")
    text = self_contained(tmp_path / "report.html")
    assert f"{SOURCES} units" in text
    assert "refused" in text


def test_report_of_a_classifier_names_units(tested: Path, tmp_path: Path) -> None:
    assert main("report", [str(tested), "--out", str(tmp_path / "r.html")]) == 0
    assert f"{SOURCES} units" in self_contained(tmp_path / "r.html")


def test_study_goes_from_raw_images_to_a_report(studied: Path) -> None:
    text = self_contained(studied / "report.html")
    assert "units" in text
    for name in ("segment", "plan", "ablate", "bundle"):
        assert files.read_json(studied / "runs" / name / "run.json")["status"] == "done"
    summary = pd.read_csv(studied / "runs" / "ablate" / "summary.csv").set_index("arm")["status"]
    assert summary["simclr, whole"] == "ok"
    assert summary["bags (mil), linear probe"].startswith("refused")
    assert (studied / metrics_of(studied)["bundle"] / "bundle.json").exists()


def test_a_study_cuts_as_it_is_told() -> None:
    flags = ["--raw", "raw", "--drop", "border,blurred", "--mode", "cell", "--diameter", "21", "--channels", "0,1,2"]
    _, cfg, _ = read_config("study", [*flags, "--set", "modes.neuron=object", "--out", "out"])
    cut = study.cut_with(cfg)
    assert (cut.drop, cut.mode, cut.modes) == (("border", "blurred"), "cell", {"neuron": "object"})
    assert cut.read.channels == (0, 1, 2)
    assert cut.segmenter.model_dump()["diameter"] == 21


def test_a_bundle_of_a_study_predicts(studied: Path, simulated: Path, tmp_path: Path) -> None:
    out = run(predict, tmp_path / "run", model=studied / "runs" / "bundle" / "model", raw=simulated / "raw")
    assert metrics_of(out)["sources_seen_in_training"] == SOURCES
