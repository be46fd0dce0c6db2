"""DINO (Caron et al. 2021, arXiv:2104.14294) with lightly's loss, head and momentum update; two views of a size."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.selfsup import Method


class DINO(Method):
    """A student says of one view what a slowly following teacher, centred and sharpened, says of the other."""

    class Config(PluginConfig):
        """Options of DINO."""

        name: Literal["dino"] = "dino"
        momentum: float = option(0.99, "of the teacher at first; 1 at the end, along a cosine", ge=0, le=1)
        temperature: float = option(0.1, "of the student's softmax", gt=0)
        teacher_temperature: float = option(0.04, "of the teacher's softmax; smaller is sharper", gt=0)
        hidden: int = option(512, "width of the head", ge=8)
        bottleneck: int = option(256, "dimensions that the classes are directions in", ge=2)
        classes: int = option(1024, "that are made up", ge=2)

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def learner(self, encoder: Any) -> nn.Module:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        cfg = self.cfg
        with torch.no_grad():  # so that the weight that weight_norm computes can be copied
            head = DINOProjectionHead(encoder.num_features, cfg.hidden, cfg.bottleneck, cfg.classes, batch_norm=True)
        teacher = copy.deepcopy(nn.Sequential(encoder, head)).requires_grad_(False)
        loss = DINOLoss(cfg.classes, cfg.teacher_temperature, cfg.teacher_temperature, student_temp=cfg.temperature)
        return nn.ModuleDict({"encoder": encoder, "head": head, "teacher": teacher, "loss": loss})

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """Two views (n, ...) -> scalar. The loss holds the teacher's centre, which moves with every call."""
        with torch.no_grad():
            taught = [learner.teacher(view).float() for view in views]
        return learner.loss(taught, [learner.head(learner.encoder(view)).float() for view in views])

    def after_step(self, learner: Any, step: int, steps: int) -> None:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        keep = cosine_schedule(step, steps, self.cfg.momentum, 1.0)
        update_momentum(nn.Sequential(learner.encoder, learner.head), learner.teacher, keep)

    def chance(self, batch: int) -> float:
        """log(classes): the student has no idea which class it is."""
        return math.log(self.cfg.classes)
