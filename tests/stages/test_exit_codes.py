"""Exit codes and the one line that comes with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from cellvision.__main__ import dispatch
from cellvision.commandline.cli import main


@pytest.fixture
def raw(simulated: Path, tmp_path: Path) -> Path:
    """Two good images and a corrupt one."""
    for name in ("rbc/rbc_0000.png", "xylem/xylem_0000.png"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        shutil.copy(simulated / "raw" / name, tmp_path / "raw" / name)
    (tmp_path / "raw" / "rbc" / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\nnot much of an image")
    return tmp_path / "raw"


def test_a_corrupt_file_is_a_row_and_under_strict_an_exit_code(raw: Path, tmp_path: Path) -> None:
    arguments = ["--raw", str(raw), "--workers", "0", "--out", str(tmp_path / "run")]
    assert main("segment", arguments) == 0
    images = pd.read_parquet(tmp_path / "run" / "images.parquet").set_index("path")
    assert images["status"].to_dict() == {
        "rbc/corrupt.png": "skipped",
        "rbc/rbc_0000.png": "ok",
        "xylem/xylem_0000.png": "ok",
    }
    assert images.loc["rbc/corrupt.png", "reason"].startswith("E_")
    assert main("segment", [*arguments, "--strict"]) == 2  # also for a run that is done


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["segment", "--raw", "EMPTY"], 3, "no images below"),
        (["segment", "--raw", "EMPTY/none"], 3, "no folder at"),
        (["segment", "--raw", "EMPTY", "--diametr", "3"], 4, "--diametr"),
        (["segment"], 4, "give --raw"),
        (["segment", "--raw", "EMPTY", "--set", "segmenter.diametre=3"], 4, "did you mean 'diameter'"),
        (["segment", "--raw", "EMPTY", "--segmenter", "treshold"], 4, "did you mean 'threshold'"),
        (["plan", "--items", "EMPTY"], 4, "no segment run"),
        (["segmnt"], 4, "did you mean 'segment'"),
    ],
)
def test_exit_codes_come_with_one_line(
    tmp_path: Path, command: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [part.replace("EMPTY", str(tmp_path / "empty")) for part in command]
    assert dispatch([*arguments, "--out", str(tmp_path / "out")]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
    assert not (tmp_path / "out").exists()
