"""A small simulated table: 120 rows of twelve donors, two of six numbers tell sick from well."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellvision.branches import Sample

ROWS, NUMBERS, DONORS = 120, 6, 12
APART = 2.5  # standard deviations between the classes
SHIFT = 50.0  # of the values of the other half


def write(folder: Path, other_half: bool) -> Sample:
    """table.csv, with one value missing."""
    import pandas as pd

    rng = np.random.default_rng(0)
    donor = np.arange(ROWS) * DONORS // ROWS
    sick = donor % 2 == 1
    values = rng.normal(size=(ROWS, NUMBERS)).astype(np.float32)
    values[sick, :2] += APART
    values[ROWS // 2 :] += SHIFT * other_half
    values[3, 4] = np.nan
    columns = {"donor": [f"donor{number:02d}" for number in donor], "y": np.where(sick, "sick", "well")}
    table = pd.DataFrame(columns | {f"f{number}": values[:, number] for number in range(NUMBERS)})
    table.to_csv(folder / "table.csv", index=False)
    return Sample(folder / "table.csv", "y", "mlp-16-8", unit="donor")
