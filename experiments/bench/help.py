"""Seconds until `--help` answers, and of the processor, medians of five for every command, beside a bare Python start.

Bytecode is kept in a folder of its own, as a user has it kept, so the first of each is not counted.

python experiments/bench/help.py
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from cellvision.__main__ import COMMANDS

REPEATS = 5


def seconds(bytecode: str, *command: str) -> tuple[float, float]:
    """On the wall, and of the processor."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
    wall, processor = [], []
    for _ in range(REPEATS + 1):
        begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - begun)
        processor.append(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
    return statistics.median(wall[1:]), statistics.median(processor[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as bytecode:
        bare, _ = seconds(bytecode, "-c", "pass")
        print(f"python alone {bare:.3f} s")
        for name in COMMANDS:
            wall, processor = seconds(bytecode, "-m", f"cellvision.{name}", "--help")
            print(f"{name:15} {wall:.3f} s, {processor:.3f} s of the processor, {wall / bare:.1f} times python alone")


if __name__ == "__main__":
    main()
