"""`cellvision segment` killed with -9 at random moments and repeated: every file must be that of an undisturbed run.

A moment is drawn from the time an undisturbed run takes; every other kill hits all processes of the run at once, the
others its first process alone. Each start takes the next number of workers, so the result must not depend on it.

python experiments/bench/kills.py [--kills 50] [--images 6] [--seed 0] [--workers 1,2,4] [--segmenter threshold]
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellvision.core import files
from cellvision.core.rng import generator

TIMED = {"run.json", "log.jsonl", "config.yaml", ".lock"}  # times, process numbers, and the number of workers
PATIENCE_S = 3600.0
STARTUP_SHARE = 0.15  # of the kills come before the run has claimed its directory


def started(stage: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a session of its own, so that all its processes can be killed together."""
    command = [sys.executable, "-m", "cellvision", stage, *arguments]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


@dataclass
class Bench:
    """One way to call segment, and how long it takes undisturbed."""

    arguments: list[str]
    workers: Sequence[int]
    startup_s: float = 0.0
    work_s: float = 0.0
    phases: Counter[str] = field(default_factory=Counter)  # kills by what was there

    def start(self, out: Path, workers: int) -> subprocess.Popen[bytes]:
        return started("segment", [*self.arguments, "--out", str(out), "--workers", str(workers)])

    def undisturbed(self, out: Path, workers: int) -> dict[str, str]:
        """Run to the end; -> name -> hash of every file."""
        begun = time.monotonic()
        process = self.start(out, workers)
        while not (out / "run.json").exists() and process.poll() is None:
            time.sleep(0.005)
        claimed = time.monotonic()
        if process.wait(PATIENCE_S):
            raise SystemExit(f"segment ended with {process.returncode}")
        self.startup_s, self.work_s = claimed - begun, time.monotonic() - claimed
        return hashes(out)

    def killed(self, folder: Path, count: int, seed: int) -> list[dict[str, str]]:
        """Runs that were killed `count` times together, each repeated until it was done; -> hashes of each."""
        rng = generator(seed, "kills")
        workers = itertools.cycle(self.workers)
        finished: list[dict[str, str]] = []
        done = 0
        while True:
            out = folder / f"run{len(finished)}"
            process = self.start(out, next(workers))
            if done < count:
                early = rng.random() < STARTUP_SHARE
                moment = rng.random() * (self.startup_s if early else self.work_s)
                lasted = ended_before(process, out, moment, early)
                if lasted:
                    self.work_s = max(lasted, 0.8 * self.work_s)  # quicker now, or less was left to do
                else:
                    self.phases[phase(out)] += 1
                    end(process, alone=done % 2 == 1)
                    done += 1
                    continue
            if process.wait(PATIENCE_S):
                raise SystemExit(f"segment ended with {process.returncode} after it was killed")
            finished.append(hashes(out))
            if done >= count:
                return finished


def ended_before(process: subprocess.Popen[bytes], out: Path, moment: float, early: bool) -> float:
    """Wait until `moment` s after the start (early) or the claim of the directory; s it worked if it ended, else 0."""
    claim = claimed_at(out)
    while not early and process.poll() is None and claimed_at(out) == claim:
        time.sleep(0.002)
    begun = time.monotonic()
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        return 0
    return time.monotonic() - begun


def claimed_at(out: Path) -> int:
    """When run.json was last written, 0 where there is none."""
    try:
        return (out / "run.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def end(process: subprocess.Popen[bytes], alone: bool) -> None:
    if alone:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)


def phase(out: Path) -> str:
    """What an interrupted run was doing, by the files that are there."""
    if (out / "cells.parquet").exists():
        return "tables"
    if (out / "preview.png").exists():
        return "preview"
    if (out / "crops").exists():
        return "crops"
    if (out / "parts").exists():
        return "masks"
    return "claimed" if (out / "run.json").exists() else "startup"


def hashes(out: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of every file a finished run has left, but those that hold times."""
    if files.read_json(out / "run.json")["status"] != "done":
        raise SystemExit(f"{out} is not done")
    outputs = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in TIMED)
    return {path.relative_to(out).as_posix(): files.sha256_file(path) for path in outputs}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=6, help="a group, of four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--segmenter", default="threshold")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = simulated(Path(folder), given.images)
        workers = [int(number) for number in given.workers.split(",")]
        bench = Bench(["--raw", str(raw), "--segmenter", given.segmenter], workers)
        runs = [bench.undisturbed(Path(folder) / f"whole{number}", number) for number in workers]
        for number, run in zip(workers, runs, strict=True):
            print(f"{number} workers: {len(run)} files, differing from {workers[0]}: {differences(runs[0], run)}")
        finished = bench.killed(Path(folder) / "killed", given.kills, given.seed)
    wrong = [differing for run in finished if (differing := differences(runs[0], run))]
    kills = ", ".join(f"{count} in {name}" for name, count in sorted(bench.phases.items()))
    print(f"{given.kills} kills ({kills}) over {len(finished)} runs, of which {len(wrong)} differ {wrong or ''}")
    raise SystemExit(any(wrong) or any(differences(runs[0], run) for run in runs))


def simulated(folder: Path, images: int) -> Path:
    """A raw folder of four groups."""
    command = [
        sys.executable,
        "-m",
        "cellvision.simulate",
        "--images",
        str(images),
        "--height",
        "192",
        "--width",
        "256",
    ]
    subprocess.run([*command, "--out", str(folder / "sim")], check=True, stderr=subprocess.DEVNULL)
    return folder / "sim" / "raw"


if __name__ == "__main__":
    main()
