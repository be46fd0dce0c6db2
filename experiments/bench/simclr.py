"""SimCLR crops/s: our step beside lightly's documented PyTorch recipe: same crops, ResNet-18, 64 px, batch 256.

python experiments/bench/simclr.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import fake_run
from numpy.typing import NDArray

from cellvision import pretrain
from cellvision.branches import BRANCHES
from cellvision.executors import local
from cellvision.models import batches, encoders
from cellvision.selfsup import METHODS
from cellvision.training import loop
from cellvision.training.device import autocast, pick_device

BATCH = 256


def ours(items: Path, steps: int) -> Iterator[None]:
    """Exactly what `cellvision pretrain` does in a step, checkpoints aside."""
    branch = BRANCHES.build({"name": "image", "size": 64}, path=items)
    rows = np.arange(len(branch.items.table))
    pick_device("cpu", local.cores())
    method = METHODS.build("simclr")
    start = encoders.resolve("resnet18", branch, rows, 0)
    learner = pretrain.build_learner(start, method, 0).train()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3, fused=True)
    draw = batches.SourceBalanced(branch, start.state, rows, 2, BATCH, 0)
    for views in loop.batches(draw, 0, steps, local.cores()):
        with autocast(learner, "auto"):
            loss = method.step(learner, pretrain.in_order(views))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield


class Pictures(torch.utils.data.Dataset):
    """The crops as PIL images through lightly's SimCLR transform."""

    def __init__(self, crops: NDArray[np.uint8]) -> None:
        from lightly.transforms import SimCLRTransform

        self.crops, self.transform = crops, SimCLRTransform(input_size=64)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.crops[index, ..., :3]))


def peer(crops: NDArray[np.uint8], steps: int) -> Iterator[None]:
    """lightly's documented example on (n, S, S, 4) crops: ResNet-18, SimCLRTransform, NTXentLoss, SGD, fp32."""
    import torchvision
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    torch.set_num_threads(local.cores())
    backbone = torch.nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
    head = SimCLRProjectionHead(512, 512, 128)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser, criterion = torch.optim.SGD(parameters, lr=0.06), NTXentLoss()
    sampler = torch.utils.data.RandomSampler(crops, replacement=True, num_samples=steps * BATCH)
    loader = torch.utils.data.DataLoader(Pictures(crops), BATCH, sampler=sampler, num_workers=local.cores())
    for first, second in loader:
        loss = criterion(*(head(backbone(view).flatten(start_dim=1)) for view in (first, second)))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        yield


def rate(run: Callable[[], Iterator[None]], steps: int) -> float:
    """Crops per second after the first step, which starts processes and compiles kernels."""
    stream = run()
    next(stream)
    begun = time.perf_counter()
    done = sum(1 for _ in islice(stream, steps))
    return done * BATCH / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        items = fake_run(Path(folder) / "cells", 2048, 64)
        crops = np.load(items / "crops" / "00000.npy")
        for number in range(options.rounds):
            our_rate = rate(lambda: ours(items, options.steps + 1), options.steps)
            peer_rate = rate(lambda: peer(crops, options.steps + 1), options.steps)
            print(f"round {number}: ours {our_rate:.0f}/s, lightly {peer_rate:.0f}/s, ratio {our_rate / peer_rate:.2f}")


if __name__ == "__main__":
    main()
