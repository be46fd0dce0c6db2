"""Late fusion: one encoder a part, their features side by side. Input (n, bytes), as the fusion branch packs it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

Form = tuple[str, tuple[int, ...]]  # dtype and shape of one item of a part


class LateFusion(nn.Module):
    """(n, parts + bytes) uint8 -> (n, num_features): features normalised a part, then a flag for each part."""

    def __init__(self, networks: dict[str, nn.Module], forms: dict[str, Form]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.forms = forms
        widths = {name: int(network.num_features) for name, network in networks.items()}  # type: ignore[arg-type]
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.missing = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name, width in widths.items()})
        self.num_features = sum(widths.values()) + len(widths)

    def forward(self, packed: Tensor) -> Tensor:
        """(n, parts + bytes) uint8 -> (n, num_features) float32; a part that is not there has learned features."""
        there = packed[:, : len(self.forms)] > 0
        parts: list[Tensor] = []
        start = len(self.forms)
        for at, (name, (dtype, shape)) in enumerate(self.forms.items()):
            stop = start + math.prod(shape) * np.dtype(dtype).itemsize
            have = there[:, at].nonzero()[:, 0]
            if self.training and len(have) == 1:
                have = have.repeat(2)  # batch norm cannot train on one row
            features = self.missing[name].expand(len(packed), -1)
            if len(have):
                inputs = unpack(packed[have, start:stop], dtype, shape)
                encoded = self.norms[name](self.networks[name](inputs).float())
                features = features.index_put((have,), encoded.to(features.dtype))
            parts.append(features)
            start = stop
        return torch.cat([*parts, there.float()], dim=1)


def unpack(packed: Tensor, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """(n, bytes) uint8 -> (n, *shape) of the dtype, bit for bit."""
    whole = packed.clone(memory_format=torch.contiguous_format)
    return whole.view(getattr(torch, dtype)).view(len(packed), *shape)
