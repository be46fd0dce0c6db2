"""What the tests share: one torch thread, no network, and small simulated data that every module reads."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from sharing import shared

from cellvision.core import signals

# fixtures of several rooms
pytest_plugins = [
    "quick_features", "quick_pictures", "small_cellpose", "small_counts", "small_segmenter", "small_tables",
    "tiny_runs",
]  # fmt: skip

TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "branch": {"name": "image", "size": 32},
    "workers": 0,
    "device": "cpu",
}
TINY_STUDY: dict[str, Any] = {
    "encoder": "test_resnet", "size": 32, "folds": 2, "seeds": (0,), "steps": 2, "pretrain_steps": 2,
    "probe_steps": 10, "batch": 16, "workers": 0, "device": "cpu", "segmenter": "threshold",
}  # fmt: skip
GENES = 40  # of the simulated cells
ROWS, FEATURES = 120, 6  # of the table of the one-dimensional branch
MANY = 1000  # tests, some of which will want processes


def compiled(library: str) -> bool:
    """Is its bytecode stored beside it, as `make setup` does?"""
    place = importlib.util.find_spec(library)
    return bool(place and place.origin and Path(importlib.util.cache_from_source(place.origin)).exists())


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signal handlers of the command line, and afterwards those of before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals.install()
    yield
    signals.install()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One thread for torch and OpenCV here, and nothing from the network in the processes a test starts."""
    if "PYTHONDONTWRITEBYTECODE" in os.environ and not compiled(
        "torch"
    ):  # importing it again takes three times as long
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(tmp_path_factory.mktemp("bytecode"))
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}


@pytest.fixture(autouse=True, scope="session")
def small_forests() -> Iterator[None]:
    """Forests of a tenth of their trees: they stand beside every network, and took a tenth of all tests' time."""
    from cellvision.evidence import baselines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "TREES", baselines.TREES // 10)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_network(quiet_machine: None) -> Iterator[None]:
    """Any connection but one between processes of this machine raises."""

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if self.family != getattr(socket, "AF_UNIX", None):
                raise AssertionError(f"a test wants to reach {address!r}; tests use no network")
            return original(self, address)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(name))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_processes(
    quiet_machine: None,
    quick_pictures: None,
    small_forests: None,
    quick_features: None,
    no_network: None,
    request: pytest.FixtureRequest,
) -> None:
    """Worker processes find libraries loaded and what is patched above; of many tests, before any of them has run."""
    forked.install()
    if request.session.testscollected > MANY:
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulate run: four groups of four images, a fifth of the cells of another kind."""
    from cellvision import simulate

    cfg = simulate.Config(images=4, height=128, width=160, contamination=0.2, workers=0)
    return shared(tmp_path_factory, "simulated", partial(simulate.run, cfg))


@pytest.fixture(scope="session")
def cells(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The segment run of `simulated`, with the true points as annotations."""
    from cellvision import segment

    points = simulated / "truth" / "points.csv"
    cfg = segment.Config(segmenter="threshold", raw=simulated / "raw", annotations=points, workers=0)
    return shared(tmp_path_factory, "cells", partial(segment.run, cfg))


@pytest.fixture(scope="session")
def studied(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of `simulated`, with as few steps as there can be."""
    from cellvision import study

    cfg = study.Config(raw=simulated / "raw", annotations=simulated / "truth" / "points.csv", **TINY_STUDY)
    return shared(tmp_path_factory, "studied", partial(study.run, cfg))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 rows from twelve donors; f0 and f1 tell the class y, the other features do not."""
    import pandas as pd

    rng = np.random.default_rng(0)
    donor = np.arange(ROWS) // 10
    y = donor % 2
    values = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    values[:, :2] += 2.5 * y[:, None]
    values[3, 4] = np.nan
    features = {f"f{number}": values[:, number] for number in range(FEATURES)}
    path = tmp_path_factory.mktemp("table") / "table.csv"
    named = {"donor": [f"donor{number:02d}" for number in donor], "y": np.where(y, "sick", "well")}
    pd.DataFrame({**named, **features}).to_csv(path, index=False)
    return path


def write_waves(path: Path, distance: Any, samples: dict[str, Any], **more: Any) -> Path:
    """A file of calcium traces: `samples` are matrices by key, `more` further datasets with `/` written as `__`."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["tissue/distanceToTarget"] = np.asarray(distance, float)
        for key, matrix in samples.items():
            file[f"timeTraces/{key}"] = matrix
        for name, value in more.items():
            file[name.replace("__", "/")] = value
    return path


def waves(distance: Any, samples: int, noise: float, seed: int, points: int = 60) -> Any:
    """(samples, cells, points): a bump that comes later and lower the farther the cell is."""
    rng = np.random.default_rng(seed)
    far = np.asarray(distance, float)[None, :, None]
    time = np.arange(points) - rng.uniform(0, 2, (samples, 1, 1))
    bump = np.exp(-(((time - 12 - 12 * far) / 5) ** 2)) / (1 + far)
    return bump + rng.normal(0, noise, bump.shape)


GRID = (2, 1, 2, 1, 0, 1, 2, 1, 2)  # steps to the middle of a tissue of 3 x 3


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calcium files as MATLAB writes them: two levels of noise, six simulations each, of nine cells."""
    folder = tmp_path_factory.mktemp("traces") / "raw"
    for number, noise in enumerate((0.02, 0.2)):
        made = waves(GRID, 6, noise, number)
        samples = {str(key): matrix.T for key, matrix in enumerate(made, 1)}
        write_waves(folder / f"part{number}" / f"sim__beta_0.40_noise_{noise:.3f}_{number + 1}.h5", GRID, samples)
    return folder


@pytest.fixture(scope="session")
def expression(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An h5ad of 120 cells by 40 genes from twelve donors; the first six genes tell the kind of a cell."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    kind = np.arange(ROWS) % 2
    rate = np.tile(rng.gamma(2.0, 1.0, GENES), (ROWS, 1))
    rate[:, :6] *= np.where((kind[:, None] + np.arange(6)) % 2, 3.0, 0.3)
    counts = rng.poisson(rate * rng.uniform(0.6, 1.6, (ROWS, 1)))
    cells = {"donor": [f"donor{number // 10:02d}" for number in range(ROWS)], "kind": np.where(kind, "exc", "inh")}
    obs = pd.DataFrame(cells, index=[f"cell{number:03d}-1" for number in range(ROWS)])
    var = pd.DataFrame(
        {"symbol": [f"Sym{number}" for number in range(GENES)]}, index=[f"g{n:03d}" for n in range(GENES)]
    )
    path = tmp_path_factory.mktemp("expression") / "cells.h5ad"
    anndata.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=var).write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Real data: the folder that CELLVISION_REALDATA names, or ../shared/data beside the checkout; else skipped."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CELLVISION_REALDATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CELLVISION_REALDATA")
    return folder
