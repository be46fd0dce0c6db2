"""Random crop reads: `Crops.take` beside a plain gather from one memory map of the same bytes.

python experiments/bench/crops.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench import fake_run
from numpy.typing import NDArray

from cellvision.cells.cropstore import Crops
from cellvision.core.rng import generator

COUNT, SIZE, BATCH, REPEATS = 20_000, 64, 256, 200


def rate(read: Callable[[NDArray[np.int64]], NDArray[np.uint8]], rows: NDArray[np.int64]) -> float:
    """Crops per second; `rows` is (batches, batch), `read` gets one batch, (batch,) -> (batch, S, S, C+1)."""
    begun = time.perf_counter()
    for batch in rows:
        read(batch)
    return rows.size / (time.perf_counter() - begun)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        crops = Crops(fake_run(Path(folder) / "cells", COUNT, SIZE) / "crops")
        np.save(Path(folder) / "plain.npy", np.concatenate(crops.shards))
        plain = np.load(Path(folder) / "plain.npy", mmap_mode="r")
        rows = generator(0, "bench").integers(0, COUNT, (REPEATS, BATCH))
        for number in range(3):
            our_rate = rate(crops.take, rows)
            plain_rate = rate(lambda batch: plain[batch], rows)
            print(
                f"round {number}: ours {our_rate:.0f}/s, plain memory map {plain_rate:.0f}/s, "
                f"ratio {our_rate / plain_rate:.2f}"
            )


if __name__ == "__main__":
    main()
