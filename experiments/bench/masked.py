"""Masked-bin pretraining, cells/s: our step beside a plain PyTorch transformer over all gene tokens, same model size.

python experiments/bench/masked.py [--counts FILE.h5ad]    without a file, made-up cells as full as neurons
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cellvision.branches import BRANCHES
from cellvision.branches.rna import genes as rna_genes
from cellvision.branches.rna.networks import GeneTransformer
from cellvision.executors import local
from cellvision.selfsup import METHODS

GENES, BINS, CELLS = 2000, 20, 64
LAYERS, WIDTH, HEADS = 3, 64, 4
SHARE = 0.15


class Plain(nn.Module):
    """nn.TransformerEncoder over every gene of a cell, silent ones too, as its documentation shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.gene, self.level = nn.Embedding(GENES, WIDTH), nn.Embedding(BINS + 1, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.1, batch_first=True)
        self.layers, self.decode = nn.TransformerEncoder(layer, LAYERS), nn.Linear(WIDTH, BINS)

    def loss(self, bins: Tensor) -> Tensor:
        """(n, genes) bins -> mean cross-entropy of the hidden ones."""
        hidden = torch.rand(bins.shape) < SHARE
        tokens = self.gene.weight + self.level(torch.where(hidden, BINS, bins))
        return nn.functional.cross_entropy(self.decode(self.layers(tokens)[hidden]), bins[hidden])


def made_up() -> np.ndarray:
    """Log-normalised Poisson counts, 70 % of them above zero."""
    rng = np.random.default_rng(0)
    values = rng.poisson(rng.lognormal(0.8, 1.2, GENES) * rng.lognormal(0, 0.4, (CELLS, 1)))
    return np.log1p(values / values.sum(1, keepdims=True) * 1e4).astype(np.float32)


def cells_per_second(step: Callable[[], Tensor], parameters: list[nn.Parameter], batch: int, steps: int) -> float:
    """Median rate of training steps, optimiser included, after one to warm up."""
    optimiser, times = torch.optim.AdamW(parameters, lr=1e-4, fused=True), []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        step().backward()
        optimiser.step()
        times.append(time.perf_counter() - begun)
    return batch / float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=local.cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.counts:
        branch = BRANCHES.build("rna", path=options.counts)
        rows = np.arange(min(CELLS, len(branch.items.table)))
        values = branch.batch(rows, branch.fit(rows))
    else:
        values = made_up()
    state = {"mean": values.mean(0), "std": np.maximum(values.std(0), 1e-4)} | rna_genes.bin_edges(values, BINS)
    state["axes"] = rna_genes.principal_axes(values, state)
    method = METHODS.build({"name": "masked", "share": SHARE})
    our_model, plain_model = GeneTransformer(state, LAYERS, WIDTH, HEADS), Plain()
    cells = torch.from_numpy(values)
    bins = our_model.bins_of(cells)
    print(
        f"{values.shape[1]} genes, {float((values > 0).mean()):.0%} expressed, context {method.cfg.context}, "
        f"{options.threads} threads"
    )
    if values.shape[1] != GENES:
        raise SystemExit(f"the comparison is made on {GENES} genes, the file has {values.shape[1]}")
    for number in range(options.rounds):
        our_rate = cells_per_second(
            lambda: method.step(our_model, nn.Identity(), cells[:16]), list(our_model.parameters()), 16, options.steps
        )
        plain_rate = cells_per_second(
            lambda: plain_model.loss(bins[:4]), list(plain_model.parameters()), 4, options.steps
        )
        print(
            f"round {number}: ours {our_rate:.1f} cells/s, plain {plain_rate:.2f} cells/s, "
            f"ratio {our_rate / plain_rate:.1f}"
        )


if __name__ == "__main__":
    main()
