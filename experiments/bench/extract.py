"""Extraction against a plain h5py loop that builds a data frame: seconds, ratio, and peak memory of the extraction.

python experiments/bench/extract.py [--files 8 --samples 200]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from cellvision import extract
from cellvision.core.config import build

POINTS, SIDE = 1001, 5


def make(folder: Path, count: int, samples: int) -> None:
    """Files of noise in the shape of simulations."""
    rng = np.random.default_rng(0)
    for number in range(count):
        with h5py.File(folder / f"sim__beta_0.40_noise_0.{number + 1:03d}_{number + 1}.h5", "w") as file:
            file["tissue/distanceToTarget"] = np.arange(SIDE**2) % 5.0
            for sample in range(1, samples + 1):
                file[f"timeTraces/{sample}"] = rng.normal(size=(POINTS, SIDE**2))


def plain(folder: Path) -> pd.DataFrame:
    """What one would write in a notebook: every cell a row."""
    rows = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r") as file:
            distance = file["tissue/distanceToTarget"][()]
            for key in file["timeTraces"]:
                matrix = file["timeTraces"][key][()]
                for cell in range(matrix.shape[1]):
                    rows.append({
                        "file": path.name, "sample": int(key), "cell": cell, "distance": distance[cell],
                        "trace": matrix[:, cell].astype(np.float32),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        extract.run(build(extract.Config, {"raw": options.only}), options.only.parent / "memory")
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        print(f"peak memory of the extraction: {int(peak[1]) / 1024 if peak else float('nan'):.0f} MiB")
        return
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw"
        raw.mkdir()
        make(raw, options.files, options.samples)
        plain(raw)  # the files are in memory now, and the libraries loaded
        extract.run(build(extract.Config, {"raw": raw}), Path(name) / "warm")
        times: dict[str, list[float]] = {"plain": [], "extract": []}
        for turn in range(options.rounds):
            for what in times:  # in turns, so that other work on the machine hits both
                begun = time.process_time()
                if what == "plain":
                    plain(raw)
                else:
                    extract.run(build(extract.Config, {"raw": raw}), Path(name) / f"out{turn}")
                times[what].append(time.process_time() - begun)
        best = {what: min(found) for what, found in times.items()}
        size = sum(path.stat().st_size for path in raw.iterdir()) / 2**20
        print(f"{size:.0f} MiB: plain loop {best['plain']:.2f} s, extract {best['extract']:.2f} s of CPU time")
        print(f"ratio extract / plain {best['extract'] / best['plain']:.2f}", flush=True)
        subprocess.run([sys.executable, __file__, "--only", str(raw)], check=True)


if __name__ == "__main__":
    main()
