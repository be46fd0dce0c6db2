"""The leak guard: an encoder that saw the test fold is refused under any name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import metrics_of, run

from cellvision import finetune, segment
from cellvision.commandline.cli import main
from cellvision.core.errors import LeakError


def test_an_encoder_that_saw_the_test_fold_is_refused(
    cells: Path, planned: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "items": cells,
        "splits": planned,
        "encoder": str(pretrained),
        "fold": "1",
        "baselines": False,
    }
    with pytest.raises(LeakError, match="has seen 8 of the 8 test sources"):
        run(finetune, tmp_path / "refused", **options)
    arguments = [f"--{name}={options[name]}" for name in ("items", "splits", "encoder", "fold")]
    assert main("finetune", [*arguments, "--size=32", "--workers=0", f"--out={tmp_path / 'cli'}"]) == 4
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pretrain it with this fold held out, or give --transductive" in message
    stamped = run(finetune, tmp_path / "run", **options, transductive=True)
    assert metrics_of(stamped)["stamps"] == [f"transductive: encoder {str(pretrained)!r} has seen 8 of 8 test sources"]


def test_a_renamed_copy_of_a_test_image_does_not_slip_through(
    simulated: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The guard compares contents, so images the encoder saw are known under any name and in any folder."""
    shutil.copytree(simulated / "raw", tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*.png"):
        path.rename(path.with_name(f"new_{path.name}"))
    segment.run(segment.Config(segmenter="threshold", raw=tmp_path / "raw", workers=0), tmp_path / "cells")
    with pytest.raises(LeakError):
        run(finetune, tmp_path / "run", items=tmp_path / "cells", encoder=str(pretrained))
