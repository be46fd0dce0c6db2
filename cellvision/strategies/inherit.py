"""Every item inherits the label of its source; a source is the mean of its items. The plain strategy."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.strategies import Labelled, Strategy


class Inherit(Strategy):
    """Cross-entropy on items."""

    class Config(PluginConfig):
        """Options of the inherit strategy."""

        name: Literal["inherit"] = "inherit"
        class_balance: float = option(1.0, "0 draws classes as they are, 1 evenly", ge=0, le=1)
        bag_balance: float = option(0.5, "0 draws sources by their size, 1 evenly", ge=0, le=1)
        smoothing: float = option(0.0, "label smoothing", ge=0, lt=1)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def refusal(self, items: Labelled, level: str) -> str | None:
        return None if len(np.unique(items.label)) > 1 else "only one class in the training items"

    def head(self, num_features: int, classes: int) -> nn.Module:
        return nn.Linear(num_features, classes)

    def draw(self, rng: np.random.Generator, items: Labelled, batch: int) -> NDArray[np.int64]:
        """Positions drawn with replacement: a class by its damped size, then a source of it, then an item."""
        return rng.choice(len(items.label), batch, p=self.weights(items))

    def weights(self, items: Labelled) -> NDArray[np.float64]:
        """(n,) probability of each item."""
        pair = items.bag * (items.label.max() + 1) + items.label
        _, which, in_pair = np.unique(pair, return_inverse=True, return_counts=True)
        weight = in_pair[which] ** -self.cfg.bag_balance
        in_class = np.bincount(items.label, weight)
        size = np.bincount(items.label).astype(float)
        share = np.where(size > 0, size, 1) ** (1 - self.cfg.class_balance)
        weight = weight * (share / np.where(in_class > 0, in_class, 1))[items.label]
        return weight / weight.sum()

    def loss(self, head: nn.Module, features: Tensor, bag: Tensor, label: Tensor) -> Tensor:
        """(n, d) features, (n,) labels -> scalar: cross-entropy, each item with its source's label."""
        return nn.functional.cross_entropy(head(features).float(), label, label_smoothing=self.cfg.smoothing)

    def predict(self, head: nn.Module, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), (n,) bags from 0 -> item probabilities (n, k), and their means by bag (bags, k)."""
        item = head(features).float().softmax(1)
        return item, mean_by(item, bag)


def mean_by(values: Tensor, bag: Tensor) -> Tensor:
    """(n, k), (n,) bags 0..b-1 -> (b, k), the mean of each bag."""
    bags = int(bag.max()) + 1
    total = torch.zeros(bags, values.shape[1], dtype=values.dtype, device=values.device).index_add_(0, bag, values)
    return total / torch.bincount(bag, minlength=bags).clamp(min=1).unsqueeze(1)
