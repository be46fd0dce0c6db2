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
        name = f"sim__stimMag_0.50_beta_0.40_noise_0.{number + 1:03d}_kcross_0.0050_nSamples_{samples}_{number + 1}.h5"
        with h5py.File(folder / name, "w") as file:
            file["tissue/distanceToTarget"] = np.arange(SIDE**2) % 5.0
            file["sim_ids"] = np.arange(samples)
            for key in ("tissue/nTissueRows", "tissue/nTissueCols", "tissue/stimCell", "params/duration_s"):
                file[key] = SIDE
            for sample in range(1, samples + 1):
                file[f"timeTraces/{sample}"] = rng.normal(size=(POINTS, SIDE**2))


def plain(folder: Path) -> pd.DataFrame:
    """What one would write in a notebook: every cell a row, with the same facts as the extraction has."""
    rows = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r") as file:
            distance, ids = file["tissue/distanceToTarget"][()], file["sim_ids"][()]
            words = path.stem.split("__")[1].split("_")
            facts = {key: float(value) for key, value in zip(words[0:10:2], words[1:10:2], strict=True)}
            facts |= {key: float(file[f"tissue/{key}"][()]) for key in ("nTissueRows", "nTissueCols", "stimCell")}
            facts |= {"duration_s": float(file["params/duration_s"][()]), "replicate": float(words[-1])}
            for key in file["timeTraces"]:
                matrix = file["timeTraces"][key][()]
                for cell in range(matrix.shape[1]):
                    rows.append({
                        **facts, "file": path.name, "source_id": f"{path.name}:{key}", "sample": int(key),
                        "sim_id": str(ids[int(key) - 1]), "cell": cell, "distance": distance[cell],
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
        times: dict[str, list[tuple[float, float]]] = {"plain": [], "extract": []}
        for turn in range(options.rounds):
            for what in times:  # in turns, so that other work on the machine hits both
                begun = time.perf_counter(), time.process_time()
                if what == "plain":
                    plain(raw)
                else:
                    extract.run(build(extract.Config, {"raw": raw}), Path(name) / f"out{turn}")
                times[what].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        size = sum(path.stat().st_size for path in raw.iterdir()) / 2**20
        for number, kind in enumerate(("elapsed", "CPU")):
            plain_s, extract_s = (min(turn[number] for turn in times[what]) for what in ("plain", "extract"))
            ratio = extract_s / plain_s
            print(
                f"{size:.0f} MiB: plain loop {plain_s:.2f} s, extract {extract_s:.2f} s {kind}; ratio {ratio:.2f}",
                flush=True,
            )
        subprocess.run([sys.executable, __file__, "--only", str(raw)], check=True)


if __name__ == "__main__":
    main()
