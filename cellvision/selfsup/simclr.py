"""SimCLR (Chen et al. 2020, arXiv:2002.05709) with lightly's loss and projection head."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option


class SimCLR:
    """Two views of an item attract, all other items of the batch repel."""

    views = 2
    augment = True

    class Config(PluginConfig):
        """Options of SimCLR."""

        name: Literal["simclr"] = "simclr"
        temperature: float = option(0.2, "of the softmax over similarities", gt=0)
        hidden: int = option(512, "width of the projection head", ge=8)
        projection: int = option(128, "dimensions of the projection", ge=2)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def head(self, num_features: int) -> nn.Module:
        from lightly.models.modules import SimCLRProjectionHead

        return SimCLRProjectionHead(num_features, self.cfg.hidden, self.cfg.projection)

    def step(self, encoder: nn.Module, head: nn.Module, items: Tensor) -> Tensor:
        return self.loss(encoder(items), head)

    def loss(self, features: Tensor, head: nn.Module) -> Tensor:
        from lightly.loss import NTXentLoss

        first, second = head(features).float().chunk(2)
        return NTXentLoss(self.cfg.temperature)(first, second)

    def validate(self, encoder: nn.Module, branch: Any, state: Any, train: Any, test: Any) -> dict[str, float]:
        return {}

    def chance(self, batch: int) -> float:
        """log(2n - 1): every other view is as likely as the partner."""
        return math.log(2 * batch - 1)
