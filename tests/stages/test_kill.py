"""kill -9 or SIGTERM at some moment, then the same command again: the result is that of a run nobody disturbed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
from conftest import TINY_STUDY
from sharing import shared

from cellvision.commandline.cli import main
from cellvision.core import files, signals
from cellvision.executors import local

sys.path.append(str(Path(__file__).parents[2] / "experiments" / "bench"))
PATIENCE_S = 120
NETWORK = ["--encoder", "test_resnet", "--workers", "0", "--threads", "1", "--device", "cpu"]
TRAINING = ["--size", "32", "--steps", "6", "--batch", "16", "--set", "loop.checkpoint_s=0", *NETWORK]
RECIPE = "{encoder: mlp-16-8, probes: 1, loop: {steps: 6, batch: 16, checkpoint_s: 0}}"

Command = tuple[str, list[str]]  # stage and its arguments but --out


def start(command: Command, out: Path) -> forked.Command:
    return forked.Command(command[0], [*command[1], "--out", str(out)])


def stop_at(process: forked.Command, out: Path, pattern: str, count: int, number: int) -> int:
    """Send the signal to all processes once `count` files below `out` match; -> exit code."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list(out.glob(pattern))) < count:
        assert process.poll() is None, f"ended before {count} of {pattern} were there"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, number)
    return process.wait(PATIENCE_S)


def contents(out: Path) -> dict[str, Any]:
    """The content hash of a finished run, and of each run inside it."""
    assert files.read_json(out / "run.json")["status"] == "done"
    return {str(path.parent.relative_to(out)): files.read_json(path).get("content") for path in out.rglob("run.json")}


def finish(command: Command, out: Path) -> dict[str, Any]:
    """Run the command to its end, here; -> its contents."""
    assert main(command[0], [*command[1], "--out", str(out)]) == 0
    assert not list(out.rglob(".*.tmp"))
    return contents(out)


@pytest.fixture(autouse=True)
def handlers() -> Any:
    """`main` routes signals; put back what was there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signals.install()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def commands(simulated: Path, cells: Path, planned: Path, table: Path) -> dict[str, Command]:
    raw = ["--raw", str(simulated / "raw"), "--annotations", str(simulated / "truth" / "points.csv")]
    rows = ["--items", str(table), "--branch", "tabular", "--target", "y", "--unit", "donor"]
    return {
        "simulate": ("simulate", ["--images", "3", "--height", "128", "--width", "160",
                                  "--groups", "rbc,neuron", "--workers", "0"]),
        "segment": ("segment", [*raw, "--segmenter", "threshold", "--workers", "0"]),
        "pretrain": ("pretrain", ["--items", str(cells), "--probes", "2", *TRAINING, "--set", "loop.ema=0.9"]),
        "finetune": ("finetune", ["--items", str(cells), "--splits", str(planned), "--tune", "whole", "--no-baselines",
                                  *TRAINING]),
        "ablate": ("ablate", [*rows, "--folds", "2", "--seeds", "0", "--workers", "0", "--device", "cpu",
                              "--set", "base.loop={steps: 6, batch: 16}", "--set", f"pretrain.tiny={RECIPE}",
                              "--set", "factors.encoder=[mlp-16-8, pretrain:tiny]"]),
        "study": ("study", [*raw, *(f"--set={key}={json.dumps(value)}" for key, value in TINY_STUDY.items())]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], dict[str, Any]]:
    """Contents of an undisturbed run of each command: one that other tests share, or made when first asked for."""
    fixtures = {"segment": "cells", "study": "studied"}

    def contents_of(name: str) -> dict[str, Any]:
        if name in fixtures:
            return contents(request.getfixturevalue(fixtures[name]))
        return contents(shared(tmp_path_factory, f"undisturbed-{name}", partial(finish, commands[name])))

    return contents_of


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
STOPS = [  # command, and each time it is stopped: by what, when that many such files are there
    ("simulate", [(KILL, ".lock", 1), (KILL, "truth/parts/*.json", 3)]),
    ("segment", [(TERM, "parts/*.json", 3), (INT, "parts/*.json", 5), (KILL, "parts/*.json", 8), (KILL, "crops", 1)]),
    ("pretrain", [(TERM, "checkpoints/*.json", 2), (KILL, "checkpoints/checkpoint-00000004.json", 1)]),
    ("finetune", [(KILL, "checkpoints/1/*.safetensors", 2)]),
    ("ablate", [(KILL, "runs/finetune-*/metrics.json", 2)]),
    ("study", [(KILL, "runs/ablate/runs/pretrain-*/encoder", 1)]),
]


@pytest.mark.parametrize(("name", "stops"), STOPS, ids=[name for name, _ in STOPS])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    name: str,
    stops: list[tuple[signal.Signals, str, int]],
    commands: dict[str, Command],
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    for number, pattern, count in stops:
        code = stop_at(start(commands[name], out), out, pattern, count, number)
        assert code == (-number if number == KILL else 128 + number)
        assert not (out / "metrics.json").exists()
        assert number == KILL or files.read_json(out / "run.json")["status"] == "running"
    assert finish(commands[name], out) == undisturbed(name)


def test_random_kills_of_segment_with_any_number_of_workers_change_no_file(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kills

    monkeypatch.setattr(kills, "started", forked.Command)
    bench = kills.Bench(["--raw", str(simulated / "raw"), "--segmenter", "threshold"], workers=(0, 2, 4))
    whole = bench.undisturbed(tmp_path / "whole", 1)
    assert {"cells.parquet", "images.parquet", "crops/00000.npy", "geometry.json", "preview.png"} < whole.keys()
    assert sum(name.startswith("masks/") for name in whole) == 16
    finished = bench.killed(tmp_path, count=3, seed=0)  # each number of workers once
    assert sum(bench.phases.values()) == 3
    assert not [kills.differences(whole, run) for run in finished if run != whole]


WAITS = """
import signal, sys, time
from cellvision.core import signals
signals.install()
with signals.deferred():
    print("ready", flush=True)
    while not signals.requested():
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        time.sleep(0.01)  # a signal just before a long sleep would wait for its end
"""


@pytest.mark.parametrize("number", [INT, TERM])
def test_a_second_signal_does_not_wait_for_the_step_to_end(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for word in (b"ready\n", b"asked\n"):
            assert process.stdout.readline() == word
            process.send_signal(number)
        try:
            assert process.wait(PATIENCE_S) == 128 + number
        finally:
            process.kill()


def _deep(started: Path) -> None:
    """Minutes in one call of a C function, which no signal handler of Python interrupts."""
    started.touch()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def _deep_until_stopped(folder: Path) -> Iterator[Path]:
    places = [folder / "one", folder / "two"]
    yield from places
    while not all(place.exists() for place in places):
        time.sleep(0.01)
    raise signals.Interrupted(TERM)


def test_workers_deep_in_a_c_call_do_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.5)
    with pytest.raises(signals.Interrupted):
        list(local.ordered_map(_deep, _deep_until_stopped(tmp_path), workers=2))
    assert not multiprocessing.active_children()
