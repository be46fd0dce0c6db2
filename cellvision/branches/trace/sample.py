"""Small simulated traces: twelve simulations of a tissue of 3 x 3 cells, a bump that comes later farther out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellvision.branches import Sample

DISTANCE = np.array([2, 1, 2, 1, 0, 1, 2, 1, 2])  # steps of each cell to the middle
FILES, SAMPLES, POINTS = 2, 6, 60
NOISE = 0.02
LOUDER = 5.0  # times, the second file's traces when the other half differs


def write(folder: Path, other_half: bool) -> Sample:
    """waves/*.h5 as `simulate --kind calcium` writes them, [time, cell]."""
    import h5py

    rng = np.random.default_rng(0)
    (folder / "waves").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        time = np.arange(POINTS) - rng.uniform(0, 2, (SAMPLES, 1, 1))
        bump = np.exp(-(((time - 12 - 12 * DISTANCE[:, None]) / 5) ** 2)) / (1 + DISTANCE[:, None])
        traces = bump + rng.normal(0, NOISE, bump.shape)
        if other_half and number:
            traces *= LOUDER
        with h5py.File(folder / "waves" / f"part_{number}.h5", "w") as file:
            file["tissue/distanceToTarget"] = DISTANCE.astype(float)
            for sample, cells in enumerate(traces, 1):
                file[f"timeTraces/{sample}"] = cells.T
    return Sample(folder / "waves", "distance", "cnn-8-8")
