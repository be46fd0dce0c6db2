"""Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230) with lightly's loss and projection head."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.selfsup import Method


class BarlowTwins(Method):
    """Each dimension of the projection says the same of both views, and something else than the others do."""

    class Config(PluginConfig):
        """Options of Barlow Twins."""

        name: Literal["barlow"] = "barlow"
        redundancy: float = option(5e-3, "weight of the correlations between different dimensions", gt=0)
        hidden: int = option(512, "width of the projection head", ge=8)
        projection: int = option(512, "dimensions of the projection", ge=2)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def learner(self, encoder: Any) -> nn.Module:
        from lightly.models.modules import BarlowTwinsProjectionHead

        head = BarlowTwinsProjectionHead(encoder.num_features, self.cfg.hidden, self.cfg.projection)
        return nn.ModuleDict({"encoder": encoder, "head": head})

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """Two views (n, ...) -> scalar, from the correlations (d, d) between the dimensions of their projections."""
        from lightly.loss import BarlowTwinsLoss

        first, second = (learner.head(learner.encoder(view)).float() for view in views)
        return BarlowTwinsLoss(self.cfg.redundancy)(first, second)

    def chance(self, batch: int) -> float:
        """Correlations of views that tell nothing of each other have mean 0 and variance 1 / (n - 1)."""
        variance, dimensions = 1 / (batch - 1), self.cfg.projection
        return dimensions * (1 + variance) + self.cfg.redundancy * dimensions * (dimensions - 1) * variance
