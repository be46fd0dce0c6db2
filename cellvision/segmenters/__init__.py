"""Segmenters: an image in, a label map out. A segmenter is one file and one line in `SEGMENTERS`.

    class Otsu(Segmenter):                                 # cellvision/segmenters/otsu.py
        class Config(PluginConfig):
            name: Literal["otsu"] = "otsu"

        def __init__(self, cfg: Config, device: str = "auto") -> None:
            self.cfg = cfg

        def segment(self, pixels: NDArray[np.uint8]) -> Segmentation:
            from skimage.filters import threshold_otsu
            from skimage.measure import label

            grey = pixels.max(axis=2)                      # threshold_otsu takes constant images, too
            return Segmentation(in_raster_order(label(grey > threshold_otsu(grey)))[0])

        def identity(self) -> str:
            return "otsu revision 1"

and the line `"otsu": "cellvision.segmenters.otsu:Otsu"` below. tests/segmenters/test_segmenter_contract.py finds it:
empty images, a single pixel, grey and colour, labels in raster order, the same bits with any number of processes, an
identity that knows the weights. Libraries that load slowly are imported where used. One that needs minutes says so
beforehand: see slow.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, SerializeAsAny

from cellvision.core.config import PluginConfig
from cellvision.core.registry import Registry

SEGMENTERS: Registry[Segmenter] = Registry(
    "segmenter",
    {
        "threshold": "cellvision.segmenters.threshold.segmenter:Threshold",
        "nano": "cellvision.segmenters.nano.segmenter:Nano",
        "cellpose": "cellvision.segmenters.cellpose:Cellpose",
    },
    auto="nano",
)
AUTO = "auto"
DINOV3 = "pip install git+https://github.com/facebookresearch/dinov3"  # what the CPDINO networks are made of
WHY = {
    "nano": "a small Cellpose network that comes with the package; the default without a GPU and official weights",
    "cellpose": "Cellpose-SAM; the default on a GPU with its weights",
    "threshold": "classical, nothing learned",
}


def chosen(value: Any) -> PluginConfig:
    """A segmenter's config; `auto`, or options without a name, is Cellpose-SAM on a GPU with its weights, else nano."""
    if value == AUTO:
        value = {}
    if isinstance(value, Mapping) and value.get("name", AUTO) == AUTO:
        value = {**value, "name": "cellpose" if cellpose_at_hand() else "nano"}
    return SEGMENTERS.config(value)


def cellpose_at_hand() -> bool:
    """The official weights are here, and a GPU to run them on."""
    folder = Path(os.environ.get("CELLPOSE_LOCAL_MODELS_PATH") or "~/.cellpose/models").expanduser()
    if not (folder / "cpsam_v2").is_file():
        return False
    import torch

    return torch.cuda.is_available()


SegmenterConfig = Annotated[SerializeAsAny[PluginConfig], BeforeValidator(chosen), SEGMENTERS]


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
        """What the masks depend on beside the config: the method and its revision, the hash of the weights.

        An option `weights` is a path, which says nothing of the content: declare it with runtime=True.
        """
        ...


def in_raster_order(labels: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The same regions numbered 1..n by their first pixel in reading order, and the old label of each new one, (n,)."""
    names, first = np.unique(labels, return_index=True)
    names, first = names[names > 0], first[names > 0]
    order = names[np.argsort(first)]
    table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    table[order] = np.arange(1, len(order) + 1)
    return table[labels], order.astype(np.int64)
