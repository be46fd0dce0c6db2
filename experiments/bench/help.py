"""Seconds until `--help` answers, median of five for every command, beside a bare Python start.

python experiments/bench/help.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from cellvision.__main__ import COMMANDS


def seconds(*command: str) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    bare = seconds("-c", "pass")
    print(f"python alone {bare:.3f} s")
    for name in COMMANDS:
        took = seconds("-m", f"cellvision.{name}", "--help")
        print(f"{name:9} {took:.3f} s, {took / bare:.1f} times python alone")


if __name__ == "__main__":
    main()
