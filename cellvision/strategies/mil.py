"""Multiple-instance learning with gated attention (Ilse et al. 2018, arXiv:1802.04712): the bag has the label."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.strategies import Labelled, Strategy


class GatedHead(nn.Module):
    """Attention over the items of a bag, and one classifier that reads both the bag and its items."""

    def __init__(self, num_features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.value = nn.Linear(num_features, hidden)
        self.gate = nn.Linear(num_features, hidden)
        self.score = nn.Linear(hidden, 1)
        self.classify = nn.Linear(num_features, classes)

    def forward(self, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), (n,) -> item logits (n, k), bag logits (b, k)."""
        features = self.drop(features.float())
        score = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features)))
        weight = softmax_by(score, bag)
        bags = int(bag.max()) + 1
        pooled = torch.zeros(bags, features.shape[1], device=features.device).index_add_(0, bag, weight * features)
        return self.classify(features), self.classify(pooled)


def softmax_by(score: Tensor, bag: Tensor) -> Tensor:
    """(n, 1) -> (n, 1), softmax within each bag."""
    bags = int(bag.max()) + 1
    index = bag.unsqueeze(1)
    top = torch.full((bags, 1), -torch.inf, dtype=score.dtype, device=score.device)
    top = top.scatter_reduce(0, index, score.detach(), "amax")
    raised = (score - top[bag]).exp()
    total = torch.zeros(bags, 1, dtype=score.dtype, device=score.device).index_add_(0, bag, raised)
    return raised / total[bag]


class GatedAttention(Strategy):
    """Bags are drawn evenly over classes; a bag shows a random part of its items at each step."""

    class Config(PluginConfig):
        """Options of multiple-instance learning."""

        name: Literal["mil"] = "mil"
        bag_items: int = option(32, "items of a bag shown in one step", ge=1)
        hidden: int = option(64, "width of the attention", ge=1)
        dropout: float = option(0.25, "on the features", ge=0, lt=1)
        min_bags: int = option(10, "training bags a class; with fewer the strategy is refused", ge=1)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def refusal(self, items: Labelled, level: str) -> str | None:
        if level != "source":
            return "bags need a label that is true of the source; this target is true of the items"
        bags = np.bincount(items.bag_labels, minlength=int(items.label.max()) + 1)
        few = bags[bags > 0].min()
        if few < self.cfg.min_bags:
            return f"a class has {few} training bags, {self.cfg.min_bags} are needed to learn from bags"
        return None if len(bags[bags > 0]) > 1 else "only one class in the training items"

    def head(self, num_features: int, classes: int) -> nn.Module:
        return GatedHead(num_features, classes, self.cfg.hidden, self.cfg.dropout)

    def draw(self, rng: np.random.Generator, items: Labelled, batch: int) -> NDArray[np.int64]:
        """Whole bags, cut to bag_items each, until the batch is full; classes take turns."""
        labels, drawn, count = items.bag_labels, [], 0
        classes = rng.permutation(np.unique(labels))
        turn = 0
        while count < batch:
            bag = rng.choice(np.flatnonzero(labels == classes[turn % len(classes)]))
            members = np.flatnonzero(items.bag == bag)
            chosen = rng.choice(members, min(len(members), self.cfg.bag_items), replace=False)
            drawn.append(chosen)
            count, turn = count + len(chosen), turn + 1
        return np.concatenate(drawn)

    def loss(self, head: nn.Module, features: Tensor, bag: Tensor, label: Tensor) -> Tensor:
        """(n, d) features, (n,) bags and labels, one a bag -> scalar: cross-entropy of bags."""
        _, dense = torch.unique(bag, return_inverse=True)
        _, logits = head(features, dense)
        target = torch.zeros(len(logits), dtype=torch.long, device=label.device).scatter_(0, dense, label)
        return nn.functional.cross_entropy(logits, target)

    def predict(self, head: nn.Module, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), (n,) bags from 0 -> item probabilities (n, k), bag probabilities (bags, k)."""
        item, pooled = head(features, bag)
        return item.softmax(1), pooled.softmax(1)
