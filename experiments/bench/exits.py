"""Does a run that succeeded always end with 0? Exit codes of many runs of `segment` on one tiny image.

    python experiments/bench/exits.py [RUNS] [--parquet]

Each run has an environment with nothing but PATH (and PYTHONPATH), where libraries start as many threads as they like;
`python -m cellvision` and the entry point take turns. With --parquet, each run only reads a table with pandas, as
cellvision did once: what is counted then is the fault of the libraries.
"""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cellvision import simulate

RUNS = 200
STARTS = (["-m", "cellvision"], ["-c", "from cellvision.__main__ import command; command()"])
BARE = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}


def one_cell_image(folder: Path) -> Path:
    """A folder of raw images with one image of a few cells."""
    from PIL import Image

    simulate.run(simulate.Config(images=1, workers=1), folder / "simulated")
    path = folder / "raw" / "rbc" / "image.png"
    path.parent.mkdir(parents=True)
    with Image.open(next((folder / "simulated" / "raw" / "rbc").glob("*.png"))) as image:
        image.crop((0, 0, 160, 160)).save(path)
    return folder / "raw"


def ended(arguments: list[str]) -> int:
    """The exit code of one process; what it said is shown where that is not 0."""
    process = subprocess.run([sys.executable, *arguments], env=BARE, capture_output=True, text=True, check=False)
    if process.returncode:
        print(process.returncode, process.stderr.strip(), file=sys.stderr, flush=True)
    return process.returncode


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    runs = numbers[0] if numbers else RUNS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = one_cell_image(folder)
        segment = ["segment", "--raw", str(raw), "--segmenter", "threshold", "--workers", "1", "--out"]
        codes: collections.Counter[int] = collections.Counter()
        if "--parquet" in sys.argv:
            ended([*STARTS[0], *segment, str(folder / "run")])
            table = folder / "run" / "cells.parquet"
            codes.update(
                ended(["-c", f"import torch, pandas; pandas.read_parquet({str(table)!r})"]) for _ in range(runs)
            )
        else:
            codes.update(
                ended([*STARTS[number % len(STARTS)], *segment, str(folder / f"run{number}")]) for number in range(runs)
            )
    print(", ".join(f"{count} of {runs} runs ended with {code}" for code, count in sorted(codes.items())))


if __name__ == "__main__":
    main()
