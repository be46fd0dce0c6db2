"""Batches for self-supervision, drawn evenly over the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellvision.branches import Augment, Branch, State
from cellvision.core.rng import generator

if TYPE_CHECKING:
    from torch import Tensor


class SourceBalanced:
    """The batch of a step: items drawn evenly over their sources, without repeats, in `views` variations each.

    Sources are balanced so that one image with many cells does not rule, and negatives come from many images.
    """

    def __init__(
        self,
        branch: Branch,
        state: State,
        rows: NDArray[np.int64],
        views: int,
        batch: int,
        seed: int,
        augment: bool = True,
    ) -> None:
        self.branch, self.state, self.rows, self.views, self.batch, self.seed = branch, state, rows, views, batch, seed
        self.augment = augment
        source = np.unique(branch.items.table["source_id"].iloc[rows], return_inverse=True)[1]
        weight = 1.0 / np.bincount(source)[source]
        self.log_weight = np.log(weight / weight.sum())

    def chosen(self, step: int) -> NDArray[np.int64]:
        """(batch,) rows, drawn without replacement: the largest of log weight + Gumbel noise (Efraimidis 2006)."""
        key = self.log_weight + generator(self.seed, "pretrain batch", step).gumbel(size=len(self.rows))
        top = np.argpartition(-key, self.batch - 1)[: self.batch]
        return self.rows[np.sort(top)]

    def __call__(self, step: int) -> dict[str, Tensor]:
        import torch

        rows = self.chosen(step)
        varied = [Augment("strong", (self.seed, step, view)) if self.augment else None for view in range(self.views)]
        return {
            str(view): torch.from_numpy(self.branch.batch(rows, self.state, how)) for view, how in enumerate(varied)
        }
