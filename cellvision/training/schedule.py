"""How long and how to train: the config of the training loop, and its learning rate."""

from __future__ import annotations

import math
from typing import Literal

from cellvision.core.config import StageModel, option


class LoopConfig(StageModel):
    """How long and how to train."""

    steps: int = option(300, "optimiser steps", ge=1)
    batch: int = option(128, "items a step", ge=2, le=65_536)
    lr: float = option(1e-3, "peak learning rate of AdamW; cosine decay after the warm-up", gt=0)
    weight_decay: float = option(0.05, "of AdamW, not on biases and norms", ge=0)
    warmup: float = option(0.1, "share of the steps", ge=0, lt=1)
    clip: float = option(5.0, "largest norm of the gradient", gt=0)
    ema: float = option(
        0.0, "decay of the averaged weights that are kept in the end; 0 keeps the last ones", ge=0, lt=1
    )
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "auto is bf16 where it is fast")
    checkpoint_s: float = option(60, "seconds between checkpoints", runtime=True, ge=0)


def learning_rate(cfg: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to zero; step counts from 0."""
    warm = max(1, round(cfg.warmup * cfg.steps))
    if step < warm:
        return cfg.lr * (step + 1) / warm
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, cfg.steps - warm)))
