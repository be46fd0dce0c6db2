"""Counts of 30 cells by 12 genes, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sharing import understood

from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.rng import generator

CELLS, GENES = 30, 12
NAMES = [f"c{number}" for number in range(CELLS)]
SYMBOLS = [f"G{number}" for number in range(GENES)]


@pytest.fixture(scope="session")
def values() -> NDArray[np.float32]:
    """Counts of 30 cells by 12 genes, no cell empty."""
    found = generator(0, "counts").poisson(1.5, (CELLS, GENES)).astype(np.float32)
    found[:, 0] += 1
    return found


def h5ad(path: Path, matrix: Any, names: Any = None, genes: Any = None, **more: Any) -> Path:
    obs = pd.DataFrame(index=pd.Index(NAMES[: matrix.shape[0]] if names is None else names))
    var = pd.DataFrame(index=pd.Index(SYMBOLS[: matrix.shape[1]] if genes is None else genes))
    anndata.AnnData(matrix, obs=obs, var=var, **more).write_h5ad(path)
    return path


def opened(path: Path, **options: Any) -> Any:
    return BRANCHES.build({"name": "rna", **options}, path=path)


def raw(branch: Any) -> NDArray[np.float32]:
    return branch.data.take(np.arange(branch.data.shape[0])).toarray()


def chain(stage: Any, out: Path, path: Path | None = None, **options: Any) -> dict[str, Any]:
    """Run a stage and return its metrics."""
    shared: dict[str, Any] = {"workers": 0, "threads": 1, "device": "cpu"}
    if path is not None:
        shared |= {"items": path, "branch": "rna", "unit": "donor", "target": "kind"}
    known = understood(stage.Config)
    stage.run(build(stage.Config, {key: value for key, value in (shared | options).items() if key in known}), out)
    return files.read_json(out / "metrics.json")
