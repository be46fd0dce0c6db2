"""Ordered classes: one question a step, is the label above this class? (CORN, Shi, Cao and Raschka 2023)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.strategies.inherit import Inherit, mean_by


class Ordinal(Inherit):
    """Like inherit, for labels that are numbers: a near miss costs less than a far one."""

    ordered = True

    class Config(PluginConfig):
        """Options of the ordinal strategy."""

        name: Literal["ordinal"] = "ordinal"
        class_balance: float = option(1.0, "0 draws classes as they are, 1 evenly", ge=0, le=1)
        bag_balance: float = option(0.5, "0 draws sources by their size, 1 evenly", ge=0, le=1)

    def head(self, num_features: int, classes: int) -> nn.Module:
        return nn.Linear(num_features, classes - 1)

    def loss(self, head: nn.Module, features: Tensor, bag: Tensor, label: Tensor) -> Tensor:
        """(n, d), (n,) labels -> scalar. Step k is asked of items at or above class k: above k, given at least k."""
        score = head(features).float()
        step = torch.arange(score.shape[1], device=label.device)
        asked = (label[:, None] >= step).float()
        above = (label[:, None] > step).float()
        each = nn.functional.binary_cross_entropy_with_logits(score, above, reduction="none")
        return (each * asked).sum() / asked.sum()

    def predict(self, head: nn.Module, features: Tensor, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(n, d), (n,) bags from 0 -> item probabilities (n, k), and their means by bag (bags, k)."""
        reached = head(features).float().sigmoid().cumprod(1)
        ones, zeros = torch.ones_like(reached[:, :1]), torch.zeros_like(reached[:, :1])
        item = torch.cat([ones, reached], 1) - torch.cat([reached, zeros], 1)
        return item, mean_by(item, bag)
