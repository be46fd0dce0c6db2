"""The tutorial runs from its first cell to its last, as a script that is piped into Python, and has no outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cellvision

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "tutorial.ipynb"


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    script = "\n".join("".join(cell["source"]) for cell in code_cells())
    process = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    out = tmp_path / "runs" / "tutorial"
    assert {name: cellvision.open(out / name).status for name in ("simulated", "cells", "plan", "weak", "true")} == (
        dict.fromkeys(("simulated", "cells", "plan", "weak", "true"), "done")
    )
    assert "a plan run has no crops; runs with crops: segment" in process.stdout
    metrics = cellvision.open(out / "weak").metrics
    assert f"{metrics['agreement']:.2f} ({metrics['agreement_low']:.2f} to" in process.stdout
    assert metrics["agreement_units"] == 12
    assert (out / "report.html").is_file()


def test_the_tutorial_is_kept_without_outputs() -> None:
    assert [cell["outputs"] for cell in code_cells()] == [[]] * len(code_cells())
