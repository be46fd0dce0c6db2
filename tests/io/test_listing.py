"""Listing very many files: time and memory.

CELLVISION_FILES sets how many files the test makes (10,000; the bound is for 100,000).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES = int(os.environ.get("CELLVISION_FILES", "10000"))
LISTING = """
import re, sys, time
from pathlib import Path
from cellvision.io.rawfolder import scan
begun = time.process_time()
found = scan(Path(sys.argv[1]))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(len(found), time.process_time() - begun, int(peak[1]) / 1024)
"""


def test_a_hundred_thousand_files_are_listed_in_a_minute_within_half_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "raw" / "g").mkdir(parents=True)
    for number in range(FILES):
        (tmp_path / "raw" / "g" / f"{number}.png").write_bytes(b"x")
    answer = subprocess.run(
        [sys.executable, "-c", LISTING, str(tmp_path / "raw")], capture_output=True, text=True, check=True
    )
    count, seconds, mib = map(float, answer.stdout.split())
    assert count == FILES
    assert seconds < 60 * FILES / 100_000
    assert mib < 500
