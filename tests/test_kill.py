"""kill -9 at any moment, then the same command again: the result is that of a run nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cellvision.core import files
from cellvision.core.cli import main
from cellvision.core.signals import install

PATIENCE_S = 120
NETWORK = ["--encoder", "test_resnet", "--workers", "0", "--threads", "1", "--device", "cpu"]
TRAINING = ["--size", "32", "--steps", "12", "--batch", "16", "--set", "loop.checkpoint_s=0", *NETWORK]
RECIPE = "{encoder: test_resnet, probes: 1, loop: {steps: 6, batch: 16, checkpoint_s: 0}}"

Command = tuple[str, list[str]]  # stage and its arguments but --out


def start(command: Command, out: Path) -> subprocess.Popen[bytes]:
    """The command in a session of its own, so that all its processes can be killed together."""
    arguments = [sys.executable, "-m", f"cellvision.{command[0]}", *command[1], "--out", str(out)]
    return subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL)


def stop_at(process: subprocess.Popen[bytes], out: Path, pattern: str, count: int, number: int) -> int:
    """Send the signal to all processes once `count` files below `out` match; -> exit code."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list(out.glob(pattern))) < count:
        assert process.poll() is None, f"ended before {count} of {pattern} were there"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, number)
    return process.wait(PATIENCE_S)


def finish(command: Command, out: Path) -> dict[str, Any]:
    """Run the command to its end, here; -> the content hash of the run and of each run inside it."""
    assert main(command[0], [*command[1], "--out", str(out)]) == 0
    assert files.read_json(out / "run.json")["status"] == "done"
    assert not list(out.rglob(".*.tmp"))
    return {str(path.parent.relative_to(out)): files.read_json(path).get("content") for path in out.rglob("run.json")}


@pytest.fixture(autouse=True)
def handlers() -> Any:
    """`main` routes signals; put back what was there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    install()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def commands(simulated: Path, cells: Path) -> dict[str, Command]:
    image = ["--set", "branch.size=32", "--items", str(cells)]
    return {
        "simulate": ("simulate", ["--images", "3", "--height", "128", "--width", "160", "--groups", "rbc,neuron", "--workers", "0"]),
        "segment": ("segment", ["--raw", str(simulated / "raw"), "--annotations", str(simulated / "truth" / "points.csv"), "--workers", "0"]),
        "pretrain": ("pretrain", ["--items", str(cells), "--probes", "2", *TRAINING, "--set", "loop.ema=0.9"]),
        "finetune": ("finetune", ["--items", str(cells), "--tune", "whole", "--no-baselines", *TRAINING]),
        "ablate": ("ablate", [*image, "--folds", "2", "--seeds", "0", "--workers", "0", "--device", "cpu",
                              "--set", "base.loop={steps: 6, batch: 16}", "--set", f"pretrain.tiny={RECIPE}",
                              "--set", "factors.encoder=[test_resnet, pretrain:tiny]"]),
        "study": ("study", ["--raw", str(simulated / "raw"), "--size", "32", "--folds", "2", "--seeds", "0", "--steps", "2", "--pretrain-steps", "2",
                            "--batch", "16", "--encoder", "test_resnet", "--workers", "0", "--device", "cpu"]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(
    commands: dict[str, Command], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """Contents of a run of each command that nobody disturbed, made when first asked for."""
    known: dict[str, dict[str, Any]] = {}

    def contents(name: str) -> dict[str, Any]:
        if name not in known:
            known[name] = finish(commands[name], tmp_path_factory.mktemp(name) / "run")
        return known[name]

    return contents


KILLS = [  # command, and each kill: the files and how many of them
    ("simulate", [(".lock", 1), ("truth/parts/*.json", 3)]),
    ("segment", [("parts/*.json", 6), ("crops", 1)]),
    ("pretrain", [("checkpoints/checkpoint-00000004.json", 1)]),
    ("finetune", [("checkpoints/1/*.safetensors", 2)]),
    ("ablate", [("runs/finetune-*/metrics.json", 2)]),
    ("study", [("runs/ablate/runs/pretrain-*/encoder", 1)]),
]


@pytest.mark.parametrize(("name", "kills"), KILLS, ids=[name for name, _ in KILLS])
def test_a_killed_run_ends_as_if_it_had_not_been(
    name: str,
    kills: Sequence[tuple[str, int]],
    commands: dict[str, Command],
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    for pattern, count in kills:
        assert stop_at(start(commands[name], out), out, pattern, count, signal.SIGKILL) == -signal.SIGKILL
        assert not (out / "metrics.json").exists()
    assert finish(commands[name], out) == undisturbed(name)


@pytest.mark.parametrize(("name", "pattern"), [("segment", "parts/*.json"), ("pretrain", "checkpoints/*.json")])
def test_a_terminated_run_exits_with_143_and_resumes(
    name: str,
    pattern: str,
    commands: dict[str, Command],
    undisturbed: Callable[[str], dict[str, Any]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    assert stop_at(start(commands[name], out), out, pattern, 2, signal.SIGTERM) == 143
    assert files.read_json(out / "run.json")["status"] == "running"
    assert finish(commands[name], out) == undisturbed(name)
