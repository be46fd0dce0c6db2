"""Peak anonymous memory of pretraining on 10,000 and 100,000 made-up crops; mapped pages are not counted.

python experiments/bench/memory.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench import fake_run


def peak_mib(items: Path, out: Path) -> float:
    """Largest RssAnon of `cellvision pretrain`, a few steps long, in one process."""
    options = {"encoder": "resnet10t", "size": 64, "steps": 8, "batch": 128, "workers": 0, "threads": 1}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "cellvision.pretrain", "--items", str(items), "--out", str(out), *flags]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            match = re.search(r"RssAnon:\s+(\d+)", status)
            peak = max(peak, int(match[1]) / 1024 if match else 0)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit("the pretraining failed")
    watcher.join()
    return peak


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for count in (10_000, 100_000):
            items = fake_run(Path(folder) / f"cells{count}", count, 32)
            peaks.append(peak_mib(items, Path(folder) / f"out{count}"))
            print(f"{count} crops: {peaks[-1]:.0f} MiB")
        print(f"ratio {peaks[1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
