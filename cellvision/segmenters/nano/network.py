"""The network of `nano`: a ResNet-18 trunk of timm and a light decoder that predict Cellpose's flows.

Outputs are those of Cellpose (Stringer et al. 2021): flow in y and x, times five, and the log odds of lying in a cell.
A second head reads the cells' diameter from the trunk's features, so that an image can be brought to `DIAMETER` first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.cells.pixels import grey_repeated
from cellvision.io.images.pixels import stretched

DIAMETER = 20.0  # px, the cell diameter the flows are trained at
STRIDE = 16  # sides of the input are multiples of it
TRUNK = "resnet18"
RANGE = (0.5, 99.8)  # percentiles that become 0 and 1
WIDTHS = (192, 96, 64)  # channels of the decoder at strides 8, 4 and 2


class NanoNetwork(nn.Module):
    """(n, 3, H, W) in 0..1, H and W multiples of 16 -> (n, 3, H, W): flow y, flow x (times five), log odds."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.trunk = timm.create_model(TRUNK, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3))
        *finer, width = self.trunk.feature_info.channels()  # type: ignore[operator,union-attr]
        self.size = nn.Sequential(nn.Linear(2 * width, 64), nn.ReLU(), nn.Linear(64, 2))
        self.ups = nn.ModuleList()
        for skip, wanted in zip(reversed(finer), WIDTHS, strict=True):
            self.ups.append(Up(width, skip, wanted))
            width = wanted
        self.head = nn.Conv2d(width, 3 * 4, 3, padding=1)  # 2 x 2 px each: stride 2 -> 1

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in 0..1 -> (n, 3, H, W) float32: flow y, flow x (times five), log odds."""
        *finer, features = self.trunk(pixels)
        for up, skip in zip(self.ups, reversed(finer), strict=True):
            features = up(features, skip)
        return F.pixel_shuffle(self.head(features), 2).float()

    def diameter(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, H, W) -> (n,) log2 of the diameter in units of `DIAMETER`, and the log variance of that guess."""
        features = self.trunk(pixels)[-1].float()
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        guess, spread = self.size(pooled).unbind(1)
        return guess, spread.clamp(-6, 4)


class Up(nn.Module):
    """Coarse features, doubled in size, plus the trunk's at that size; then two convolutions."""

    def __init__(self, coarse: int, skip: int, width: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, width, 1, bias=False)
        self.skip = nn.Conv2d(skip, width, 1, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        for _ in range(2):
            convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.refine = nn.Sequential(*layers)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(n, coarse, h, w), (n, skip, 2 * h, 2 * w) -> (n, width, 2 * h, 2 * w)."""
        return self.refine(F.interpolate(self.coarse(features), scale_factor=2, mode="nearest") + self.skip(skip))


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) -> (H, W, 3), stretched over `RANGE`; grey is repeated."""
    return grey_repeated(stretched(pixels, RANGE), 3)


def typical_diameter(masks: NDArray[np.integer]) -> float:
    """(H, W) labels -> diameter of the disc with their median area, px; 0 where there are none."""
    areas = np.bincount(masks.ravel())[1:]
    areas = areas[areas > 0]
    return float(2 * math.sqrt(float(np.median(areas)) / math.pi)) if len(areas) else 0.0


def load(path: Path) -> NanoNetwork:
    """A network from its safetensors file, channels_last, in evaluation mode. ConfigError when it does not fit."""
    from cellvision.io import tensorfiles

    network = NanoNetwork()
    tensors = tensorfiles.read(path)[0]
    weights = {key: value for key, value in tensors.items() if not key.startswith(tensorfiles.HISTORY)}
    wide = {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
    tensorfiles.load_into(network, wide, str(path))
    return network.to(memory_format=torch.channels_last).eval()


def save(path: Path, network: NanoNetwork, facts: dict[str, str], seen: Mapping[str, Tensor] | None = None) -> None:
    """The network and what it has seen, tensors of hashes (n,).

    Half precision halves the file; the rounding is below what the flows resolve (test_nano shows it).
    """
    from cellvision.io import tensorfiles

    half = {k: v.half() if v.is_floating_point() and "running" not in k else v for k, v in network.state_dict().items()}
    tensorfiles.write(path, {**half, **(seen or {})}, facts)
