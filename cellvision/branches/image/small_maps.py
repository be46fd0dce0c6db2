"""Convolutions on maps of a few pixels, such as a ResNet's last stage at 64 px, as matrix products.

oneDNN spends most of a 3 x 3 convolution of a 2 x 2 map on its padding. One product for each output pixel, of the
pixels it sees with the weights that meet them, is the same sum and about four times faster on a processor (bf16).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

FEW = 4  # output pixels; with 16 the product is no faster


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` that multiplies matrices where the output has at most `FEW` pixels."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, O, H', W'), as `nn.Conv2d`."""
        rows, columns = (self._windows(axis, side) for axis, side in enumerate(pixels.shape[2:]))
        if pixels.device.type != "cpu" or len(rows) * len(columns) > FEW:
            return super().forward(pixels)
        seen, weight = pixels.permute(0, 2, 3, 1), self.weight.permute(0, 2, 3, 1)
        products = [
            F.linear(seen[:, y, x].flatten(1), weight[:, taps_y, taps_x].flatten(1), self.bias)
            for y, taps_y in rows
            for x, taps_x in columns
        ]
        return torch.stack(products, 1).unflatten(1, (len(rows), len(columns))).permute(0, 3, 1, 2)

    def _windows(self, axis: int, side: int) -> list[tuple[slice, slice]]:
        """Of each output pixel along an axis: the input pixels it sees, and the taps of the kernel that meet them."""
        kernel, stride, padding = self.kernel_size[axis], self.stride[axis], int(self.padding[axis])
        starts = range(-padding, side + padding - kernel + 1, stride)
        return [
            (slice(max(0, start), min(side, start + kernel)), slice(max(0, -start), min(kernel, side - start)))
            for start in starts
        ]


def use(network: nn.Module) -> nn.Module:
    """Let the plain convolutions of a network be `SmallMapConv2d`; parameters and their names stay."""
    for module in network.modules():
        plain = (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.dilation == (1, 1)
            and module.kernel_size != (1, 1)
        )
        if plain and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = SmallMapConv2d
    return network
