"""Simulated sparse counts, left in the file, through normalisation, gene choice and embedding: memory and cost a cell.

python experiments/bench/rna_scale.py [--cells 10000 100000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

GENES, EXPRESSED, PART = 2000, 200, 5000
LIMIT_MIB = 4096


def simulate(path: Path, cells: int) -> None:
    """An h5ad with a CSR matrix, a tenth of it above zero, written part by part."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = (cells, GENES)
        size = cells * EXPRESSED
        data = group.create_dataset("data", (size,), np.float32, chunks=(2**17,))
        indices = group.create_dataset("indices", (size,), np.int32, chunks=(2**17,))
        group["indptr"] = np.arange(cells + 1, dtype=np.int64) * EXPRESSED
        for start in range(0, cells, PART):
            count = min(PART, cells - start)
            chosen = np.sort(
                np.argpartition(rng.random((count, GENES), np.float32), EXPRESSED, axis=1)[:, :EXPRESSED], axis=1
            )
            place = slice(start * EXPRESSED, (start + count) * EXPRESSED)
            indices[place] = chosen.ravel()
            data[place] = 1 + rng.poisson(rng.gamma(1.0, 1.0, (count, EXPRESSED))).ravel()
        for name, prefix, length in (("obs", "cell", cells), ("var", "gene", GENES)):
            frame = handle.create_group(name)
            frame.attrs["encoding-type"], frame.attrs["encoding-version"] = "dataframe", "0.2.0"
            frame.attrs["_index"], frame.attrs["column-order"] = "_index", np.array([], dtype="S1")
            frame["_index"] = np.array([f"{prefix}{number}" for number in range(length)], dtype=h5py.string_dtype())
            frame["_index"].attrs["encoding-type"], frame["_index"].attrs["encoding-version"] = "string-array", "0.2.0"


def measure(path: Path, encoder: str) -> None:
    """In a process of its own: seconds of each step, and the largest resident memory."""
    import torch

    from cellvision.branches import BRANCHES
    from cellvision.models import encoders

    torch.set_num_threads(2)
    marks = [("start", time.process_time())]
    branch = BRANCHES.build({"name": "rna", "backed": True, "genes": 1000}, path=path)
    rows = np.arange(len(branch.items.table))
    marks.append(("open, survey", time.process_time()))
    trained = encoders.resolve(encoder, branch, rows, 0)
    marks.append(("normalise, choose genes, bins", time.process_time()))
    features = encoders.embed(trained.module, branch, trained.state, rows)
    marks.append(("embed", time.process_time()))
    spent = [
        f"{name} {1e6 * (mark - before) / len(rows):.0f}"
        for (name, mark), (_, before) in zip(marks[1:], marks, strict=False)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = 1e6 * (marks[-1][1] - marks[0][1]) / len(rows)
    print(
        f"{len(rows)} cells -> {features.shape}: {total:.0f} us of processor a cell "
        f"({', '.join(spent)}); peak {peak:.0f} MiB"
    )
    if peak > LIMIT_MIB:
        raise SystemExit(f"more than {LIMIT_MIB} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--encoder", default="mlp-256-64")
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.encoder)
        return
    with tempfile.TemporaryDirectory() as folder:
        for cells in options.cells:
            path = Path(folder) / f"{cells}.h5ad"
            simulate(path, cells)
            command = [sys.executable, __file__, "--measure", str(path), "--encoder", options.encoder]
            subprocess.run(command, check=True)
            path.unlink()


if __name__ == "__main__":
    main()
