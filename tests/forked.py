"""Processes that begin as copies of this one, whose libraries are loaded: importing them in each took longer than work.

A command in such a process is what a new interpreter would run, but for its start.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import forkserver, process, util
from typing import Any

from cellvision.commandline.cli import main

LIBRARIES = [
    "timm", "torch._dynamo", "albumentations", "lightly.loss", "sklearn.ensemble", "cellvision.study",
    "cellvision.ablate", "cellvision.report", "cellvision.segment", "cellvision.segmenters.nano.segmenter",
]  # fmt: skip
_spawn = util.spawnv_passfds


def load() -> None:
    """What the commands work with, and what processes of these tests begin with."""
    for library in LIBRARIES:
        importlib.import_module(library)


def install() -> None:
    """The server that forks worker processes is from now on a fork of the process that asks for it."""
    if sys.platform == "linux":
        util.spawnv_passfds = _fork_server  # type: ignore[assignment]
    else:  # elsewhere libraries do not survive a fork
        multiprocessing.set_forkserver_preload(LIBRARIES)


def _fork_server(path: bytes, arguments: Sequence[str], passed: Sequence[int]) -> int:
    if "multiprocessing.forkserver" not in arguments[-1]:
        return _spawn(path, arguments, passed)
    load()
    pid = os.fork()
    if pid == 0:
        try:
            _serve(arguments[-1], passed)
        finally:
            os._exit(0)
    return pid


def _serve(statement: str, passed: Sequence[int]) -> None:
    """What the server's interpreter would do, with no more open files than it would have."""
    faulthandler.disable()  # it writes into a file of the parent
    start = 3
    for number in [*sorted(passed), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(start, number)
        start = number + 1
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    forkserver._forkserver.__init__()  # type: ignore[misc]  # the parent's is locked while it starts this
    exec(statement)


class Command:
    """`cellvision STAGE …` in a process and a session of its own, with the calls of a `subprocess.Popen`."""

    def __init__(self, stage: str, arguments: Sequence[str]) -> None:
        context: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
        self.process: process.BaseProcess = context.Process(target=_alone, args=(stage, list(arguments)))
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid
        while os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("cellvision", timeout or 0)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def _alone(stage: str, arguments: list[str]) -> None:
    """In a session of its own, so that all processes of the command can be killed together."""
    os.setsid()
    raise SystemExit(main(stage, arguments))
