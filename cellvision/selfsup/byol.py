"""BYOL (Grill et al. 2020, arXiv:2006.07733) with lightly's loss, heads and momentum update."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.selfsup import Method


class BYOL(Method):
    """From one view predict what a slowly following copy of the network says of the other; nothing repels."""

    class Config(PluginConfig):
        """Options of BYOL."""

        name: Literal["byol"] = "byol"
        momentum: float = option(0.99, "of the following copy at first; 1 at the end, along a cosine", ge=0, le=1)
        hidden: int = option(512, "width of both heads", ge=8)
        projection: int = option(128, "dimensions of the projection", ge=2)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def learner(self, encoder: Any) -> nn.Module:
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        hidden, dimensions = self.cfg.hidden, self.cfg.projection
        online = nn.Sequential(encoder, BYOLProjectionHead(encoder.num_features, hidden, dimensions))
        target = copy.deepcopy(online).requires_grad_(False)
        prediction = BYOLPredictionHead(dimensions, hidden, dimensions)
        return nn.ModuleDict({"encoder": encoder, "head": online[1], "prediction": prediction, "target": target})

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """Two views (n, ...) -> scalar: 2 less the cosines of each one's prediction and the other's target."""
        from lightly.loss import NegativeCosineSimilarity

        first, second = (learner.prediction(learner.head(learner.encoder(view))).float() for view in views)
        with torch.no_grad():
            first_target, second_target = (learner.target(view).float() for view in views)
        similarity = NegativeCosineSimilarity()
        return 2 + similarity(first, second_target) + similarity(second, first_target)

    def after_step(self, learner: Any, step: int, steps: int) -> None:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        keep = cosine_schedule(step, steps, self.cfg.momentum, 1.0)
        update_momentum(nn.Sequential(learner.encoder, learner.head), learner.target, keep)

    def chance(self, batch: int) -> float:
        """Unrelated directions are orthogonal: the mean of 2 - 2 cosine over both orders."""
        return 2.0
