"""Every command stopped at random moments, and on a full disk, then repeated: every file must be that of a quiet run.

A moment is drawn from the time a quiet run takes. Signals take turns: SIGKILL, SIGTERM and SIGINT, to all processes of
the run at once or to its first alone. A full disk is a small tmpfs, which grows until the command has succeeded: each
try before must end with 28. Commands that `--record` knows already are left out, so that the harness itself may stop.

python experiments/bench/kills.py [--kills 20] [--disks 4] [--only segment,export] [--seed 0] [--record kills.json]
python experiments/bench/kills.py --segment [--kills 50] [--images 6] [--workers 1,2,4] [--segmenter threshold]

The second form starts `segment` as a person does, by an interpreter of its own, and each start takes the next number of
workers, so that the result must not depend on it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellvision.commandline.cli import main as command_line
from cellvision.core import files
from cellvision.core.errors import DiskFull
from cellvision.core.rng import generator

TIMED = {"run.json", "log.jsonl", "config.yaml", ".lock"}  # times, process numbers, and the number of workers
PATIENCE_S = 3600.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LEAST_DISK, ROOM = 4 << 10, 256 << 20  # bytes of the smallest disk, and of the last one more than a run leaves
TRAINING = "--size 32 --steps 6 --batch 16 --encoder test_resnet --set loop.checkpoint_s=0"
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


# -- every command ------------------------------------------------------------------------------------------------


@dataclass
class Command:
    """A command of the bench: its arguments but --out, and what is known of a quiet run."""

    name: str
    arguments: list[str]
    seconds: float = 0.0
    quiet: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.name.partition(" ")[0]

    def start(self, out: Path) -> multiprocessing.process.BaseProcess:
        """The command line's own call in a fork, with the libraries of this process, and a session of its own."""
        process = multiprocessing.get_context("fork").Process(target=alone, args=(self, out))
        process.start()
        return process

    def run(self, out: Path) -> int:
        """Run it to its end; -> exit code."""
        process = self.start(out)
        process.join(PATIENCE_S)
        return process.exitcode if process.exitcode is not None else -1


def alone(command: Command, out: Path) -> None:
    os.setsid()
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - until the process ends
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    raise SystemExit(command_line(command.stage, [*command.arguments, "--out", str(out)]))


def commands(home: Path) -> Iterator[Command]:
    """Every command that leaves files, after those whose files it reads, which lie below `home`."""
    raw, cells, table = home / "simulate" / "raw", home / "segment", home / "table.csv"
    tiny = "--images 2 --height 128 --width 160 --workers 2"
    rows = f"--items {table} --branch tabular --target y --unit donor"
    bare, linear = "--workers 0 --device cpu", "--model logistic --set repeats=1"
    arms = "--set base.loop=LOOP --set factors.encoder=[mlp-8,mlp-4]"
    trained = f"--items {cells} --splits {home}/plan --fold none {TRAINING} --device cpu"
    small = "{steps: 6, batch: 16, checkpoint_s: 0}"
    study = "--folds 2 --seeds 0 --pretrain-steps 3 --probe-steps 5 --device cpu --workers 0 --segmenter threshold"
    texts = {
        "simulate": tiny,
        "simulate calcium": "--kind calcium --set calcium.samples=3 --set calcium.points=200 --set calcium.side=3",
        "segment": f"--raw {raw} --segmenter threshold --workers 2",
        "extract": f"--raw {home}/simulate-calcium/raw",
        "plan": f"--items {cells} --folds 2",
        "pretrain": f"{trained} --probes 2 --workers 1",
        "finetune": f"{trained} --tune whole --no-baselines --workers 0",
        "embed": f"--items {cells} --splits {home}/plan --encoder {home}/pretrain --device cpu --threads 1",
        "predict": f"--model {home}/finetune/model --raw {raw} --workers 2 --device cpu",
        "ablate": f"{rows} --folds 2 --seeds 0 {bare} {arms}",
        "cluster": f"{rows} --set projections=[pca] --set repeats=1",
        "importance": f"{rows} {linear}",
        "train_segmenter": f"--raw {raw} --truth {home}/simulate/truth/masks --steps 4 --batch 2 {bare}",
        "export geojson": f"{cells} --to geojson --workers 2",
        "export cellprofiler": f"{cells} --to cellprofiler --workers 2",
        "report": f"{cells}",
        "study": f"--raw {raw} --encoder test_resnet --size 32 --steps 3 --batch 16 {study}",
    }
    for name, text in texts.items():
        yield Command(name, [word.replace("LOOP", small) for word in text.split()])


def folder_of(name: str) -> str:
    return name.replace(" ", "-")


def prepare(home: Path) -> list[Command]:
    """A quiet run of each command, timed; -> those that succeeded."""
    from cellvision.branches.tabular import sample

    sample.write(home, other_half=False)
    done = []
    for command in commands(home):
        begun = time.monotonic()
        out = out_of(command, home / folder_of(command.name))
        if code := command.run(out):
            print(f"{command.name}: ended with {code}", flush=True)
            continue
        command.seconds = time.monotonic() - begun
        command.quiet = hashes_of(out)
        done.append(command)
    return done


def out_of(command: Command, folder: Path) -> Path:
    """The folder, or for a page the file in it."""
    return folder / "page.html" if command.stage == "report" else folder


def hashes_of(out: Path) -> dict[str, str]:
    """Relative name -> SHA-256 of what a command has left, but times; of figures of the machine the run's own hash."""
    if out.is_file():
        return {out.name: files.sha256_file(out)}
    paths = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in {*TIMED, "report.html"})
    return {path.relative_to(out).as_posix(): files.sha256_file(path) for path in paths}


def stopped(command: Command, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Runs that were stopped `kills` times together; -> counts of what ended otherwise than it should."""
    rng = generator(seed, "stops", command.name)
    faults: Counter[str] = Counter()
    done = runs = 0
    while done < kills:
        out = out_of(command, folder / f"{folder_of(command.name)}-{runs}")
        while done < kills:
            process = command.start(out)
            process.join(float(rng.random()) * command.seconds)
            if not process.is_alive():
                break
            number = SIGNALS[done % len(SIGNALS)]
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if done % 2 else os.kill)(process.pid or 0, number)
            process.join(PATIENCE_S)
            done += 1
            expected = (0, -number if number == signal.SIGKILL else 128 + number)  # 0: it ended just before
            faults[f"ended with {process.exitcode} on {number.name}"] += process.exitcode not in expected
        if code := command.run(out):
            faults[f"then ended with {code}"] += 1
        elif wrong := differences(command.quiet, hashes_of(out)):
            faults[f"differs: {', '.join(wrong[:3])}"] += 1
        runs += 1
    return {"stops": done, "runs": runs, "faults": {name: count for name, count in faults.items() if count}}


def filled(command: Command, folder: Path, disks: int) -> dict[str, Any]:
    """On a disk that grows to what a quiet run has left and more; -> counts of what ended otherwise than it should."""
    quiet = sum(
        path.stat().st_size for path in folder.parent.joinpath(folder_of(command.name)).rglob("*") if path.is_file()
    )
    faults: Counter[str] = Counter()
    full, disk = 0, folder / "disk"
    disk.mkdir()
    shares = {max(LEAST_DISK, int(quiet * share / disks)) for share in range(1, disks)}
    sizes = [*sorted(shares), 4 * quiet + ROOM]
    try:
        for size in sizes:
            how = f"remount,size={size}" if disk.is_mount() else f"size={size}"
            if subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(disk)], capture_output=True).returncode:
                return {"full disks": 0, "faults": {"no disk can be mounted": 1}}
            code = command.run(out_of(command, disk / "out"))
            full += code == DiskFull.exit_code
            faults[f"ended with {code} on a full disk"] += code not in (0, DiskFull.exit_code)
        if code or (wrong := differences(command.quiet, hashes_of(out_of(command, disk / "out")))):
            faults[f"then ended with {code}" if code else f"then differs: {', '.join(wrong[:3])}"] += 1
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)
    return {"full disks": full, "faults": {name: count for name, count in faults.items() if count}}


def every_command(kills: int, disks: int, only: Sequence[str], seed: int, record: Path) -> int:
    """A line a command; -> how many faults there were."""
    import_all()
    results: dict[str, Any] = files.read_json(record) if record.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for command in prepare(home):
            if command.name in results or (only and command.stage not in only):
                continue
            scratch = home / "scratch"
            scratch.mkdir()
            row = stopped(command, scratch, kills, seed)
            disk = filled(command, scratch, disks) if disks else {"full disks": 0, "faults": {}}
            results[command.name] = row | disk | {"faults": row["faults"] | disk["faults"]}
            files.write_json(record, results)
            shutil.rmtree(scratch)
            print(told(command.name, results[command.name]), flush=True)
    print()
    for name, row in results.items():
        print(told(name, row))
    faults = sum(sum(row["faults"].values()) for row in results.values())
    print(f"{sum(row['stops'] for row in results.values())} stops, {faults} faults")
    return faults


def told(name: str, row: dict[str, Any]) -> str:
    faults = "; ".join(f"{fault} ({count})" for fault, count in row["faults"].items()) or "same hashes"
    return f"{name:20} {row['stops']:3} stops in {row['runs']:2} runs, {row['full disks']} full disks: {faults}"


def import_all() -> None:
    """Libraries that the forks then find loaded; none of them has worked here."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in ("timm", "albumentations", "sklearn.ensemble", "anndata", "cellvision.study", "cellvision.cluster",
                 "cellvision.report", "cellvision.export", "cellvision.train_segmenter"):  # fmt: skip
        importlib.import_module(name)


def segment_alone(given: argparse.Namespace) -> int:
    """`segment`, by an interpreter of its own each time; -> how many runs differ."""
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
    return len(wrong) + sum(bool(differences(runs[0], run)) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--disks", type=int, default=4, help="sizes of a small disk; 0: none")
    parser.add_argument("--only", default="", help="commands, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=Path("kills.json"), help="results, which are not made again")
    parser.add_argument("--segment", action="store_true", help="segment alone, by interpreters of its own")
    parser.add_argument("--images", type=int, default=6, help="a group, of four, with --segment")
    parser.add_argument("--workers", default="1,2,4", help="with --segment")
    parser.add_argument("--segmenter", default="threshold", help="with --segment")
    given = parser.parse_args()
    only = list(filter(None, given.only.split(",")))
    if given.segment:
        raise SystemExit(bool(segment_alone(given)))
    raise SystemExit(bool(every_command(given.kills, given.disks, only, given.seed, given.record)))


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
