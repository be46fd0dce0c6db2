"""SimCLR (Chen et al. 2020, arXiv:2002.05709) with lightly's loss and projection head."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.selfsup import Method


class SimCLR(Method):
    """Two views of an item attract, all other items of the batch repel."""

    class Config(PluginConfig):
        """Options of SimCLR."""

        name: Literal["simclr"] = "simclr"
        temperature: float = option(0.2, "of the softmax over similarities", gt=0)
        hidden: int = option(512, "width of the projection head", ge=8)
        projection: int = option(128, "dimensions of the projection", ge=2)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def learner(self, encoder: Any) -> nn.Module:
        from lightly.models.modules import SimCLRProjectionHead

        head = SimCLRProjectionHead(encoder.num_features, self.cfg.hidden, self.cfg.projection)
        return nn.ModuleDict({"encoder": encoder, "head": head})

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """Two views (n, ...) -> scalar. They go through the encoder together, so that batch norm sees all of them."""
        from lightly.loss import NTXentLoss

        first, second = learner.head(learner.encoder(torch.cat(views))).float().chunk(2)
        return NTXentLoss(self.cfg.temperature)(first, second)

    def chance(self, batch: int) -> float:
        """log(2n - 1): every other view is as likely as the partner."""
        return math.log(2 * batch - 1)
