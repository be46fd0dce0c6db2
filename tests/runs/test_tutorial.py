"""The tutorial runs from its first cell to its last, and has no outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cellvision

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "tutorial.ipynb"
STEPS = '"steps": 60'


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_tutorial_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "\n".join("".join(cell["source"]) for cell in code_cells())
    assert script.count(STEPS) == 1
    script = script.replace(STEPS, '"steps": 4')
    monkeypatch.chdir(tmp_path)
    exec(script, {"__name__": "tutorial"})
    printed = capsys.readouterr().out
    out = tmp_path / "runs" / "tutorial"
    assert {name: cellvision.open(out / name).status for name in ("simulated", "cells", "plan", "weak", "true")} == (
        dict.fromkeys(("simulated", "cells", "plan", "weak", "true"), "done")
    )
    assert "a plan run has no crops; runs with crops: segment" in printed
    metrics = cellvision.open(out / "weak").metrics
    assert f"{metrics['agreement']:.2f} ({metrics['agreement_low']:.2f} to" in printed
    assert metrics["agreement_units"] == 12
    assert (out / "report.html").is_file()


def test_the_tutorial_is_kept_without_outputs() -> None:
    assert [cell["outputs"] for cell in code_cells()] == [[]] * len(code_cells())
