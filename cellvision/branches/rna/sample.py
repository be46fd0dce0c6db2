"""Small simulated counts: 120 cells of twelve donors by 40 genes, the first six of which tell the kind of a cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellvision.branches import Sample

CELLS, GENES, DONORS, MARKERS = 120, 40, 12, 6
UP, DOWN = 3.0, 0.3  # a marker's rate in one kind and in the other, of that in the mean
LOUDER = 7  # times, the counts of every third gene in the other half


def write(folder: Path, other_half: bool) -> Sample:
    """cells.h5ad with the columns donor and kind."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    kind = np.arange(CELLS) % 2
    rate = np.tile(rng.gamma(2.0, 1.0, GENES), (CELLS, 1))
    rate[:, :MARKERS] *= np.where((kind[:, None] + np.arange(MARKERS)) % 2, UP, DOWN)
    counts = rng.poisson(rate * rng.uniform(0.6, 1.6, (CELLS, 1)))
    if other_half:
        counts[CELLS // 2 :, ::3] *= LOUDER
    donor = [f"donor{number * DONORS // CELLS:02d}" for number in range(CELLS)]
    cells = pd.DataFrame({"donor": donor, "kind": np.where(kind, "exc", "inh")}, index=[f"c{n}" for n in range(CELLS)])
    genes = pd.DataFrame(index=[f"g{number:03d}" for number in range(GENES)])
    table = anndata.AnnData(csr_matrix(counts.astype(np.float32)), obs=cells, var=genes)
    table.write_h5ad(folder / "cells.h5ad")
    return Sample(folder / "cells.h5ad", "kind", "mlp-16-8", unit="donor", options={"bins": 6})
