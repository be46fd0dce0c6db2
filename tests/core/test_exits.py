"""A command ends with the code of what it did, whatever its libraries still do while the interpreter shuts down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cellvision.core import files

BARE = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
ABORTS = """
import atexit, os, threading, time
from cellvision.core.signals import leave
class Aborts:
    def __del__(self, abort=os.abort):
        abort()
aborts = Aborts()  # what a library's thread does when the interpreter is taken apart around it
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
print("said")
"""


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=BARE, capture_output=True, text=True, check=False)


def test_an_interpreter_that_is_taken_apart_can_abort() -> None:
    assert ended("-c", ABORTS).returncode < 0


@pytest.mark.parametrize("code", [0, 4, 130])
def test_leaving_keeps_the_code_and_does_what_is_left_to_do(code: int) -> None:
    process = ended("-c", f"{ABORTS}leave({code})")
    assert (process.returncode, process.stderr) == (code, "")
    assert process.stdout.split() == ["said", "thread", "registered"]


def test_output_that_cannot_be_written_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "print(1); from cellvision.core.signals import leave; leave(0)"]
        assert subprocess.run(command, stdout=full, env=BARE, check=False).returncode == 1


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    command = f"{sys.executable} -m cellvision --help | head -1; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", command], env=BARE, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("usage: cellvision")


def test_reading_a_table_gives_arrow_no_python_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"name": ["a", None], "value": [1.5, float("nan")], "count": [1, 2]})
    files.write_parquet(tmp_path / "t.parquet", table)
    expected = pd.read_parquet(tmp_path / "t.parquet")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a Python handle")

    monkeypatch.setattr("pandas.io.parquet.get_handle", refused)
    pd.testing.assert_frame_equal(files.read_parquet(tmp_path / "t.parquet"), expected)
    monkeypatch.chdir(tmp_path)
    pd.testing.assert_frame_equal(files.read_parquet(Path("t.parquet")), expected)
    with pytest.raises(FileNotFoundError):
        files.read_parquet(tmp_path / "none.parquet")


def test_runs_that_succeed_end_with_zero(tmp_path: Path) -> None:
    y, x = np.mgrid[:96, :96]
    pixels = np.where((y % 48 - 24) ** 2 + (x % 48 - 24) ** 2 < 14**2, 60, 200).astype(np.uint8)
    (tmp_path / "raw" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "raw" / "a" / "image.png")
    options = ["--raw", str(tmp_path / "raw"), "--segmenter", "threshold", "--workers", "1"]
    codes = [
        ended("-m", "cellvision", "segment", *options, "--out", str(tmp_path / f"run{number}")).returncode
        for number in range(4)
    ]
    assert codes == [0] * 4
