"""Segmenters: an image in, a label map out. A segmenter is one file and one line in `SEGMENTERS`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

SEGMENTERS = Registry(
    "segmenter",
    {
        "threshold": "cellvision.segmenters.threshold:Threshold",
        "cellpose": "cellvision.segmenters.cellpose:Cellpose",
    },
)
SegmenterConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(SEGMENTERS.config)]


@dataclass(frozen=True)
class Segmentation:
    """masks: (H, W) int32, labels 1..n in raster order, 0 background; scores: one value per label, (n,)."""

    masks: NDArray[np.int32]
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Segmenter(Protocol):
    """Made as `Segmenter(cfg, device=...)`; every user error (missing weights …) is raised there."""

    Config: type[PluginConfig]

    def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
        """(H, W, C) uint8, C 1 or 3 -> the cells. Finding none is an answer, not an error."""
        ...

    def identity(self) -> str:
        """What the masks depend on beside the config: the weights' hash, the method."""
        ...
