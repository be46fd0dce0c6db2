"""small_maps: the same sums as torch's convolution, forward and backward, and untouched where it does not apply."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from cellvision.branches.image import small_maps


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (2, 2, 0), (7, 2, 3), ((1, 3), 1, (0, 1))]
)
@pytest.mark.parametrize("bias", [False, True])
def test_same_sums_and_gradients(side: int, kernel: int, stride: int, padding: int, bias: bool) -> None:
    side = max(side, 2 if kernel == 2 else 1)
    torch.manual_seed(0)
    slow = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias).double()
    quick = small_maps.use(copy.deepcopy(slow))
    assert type(quick) is small_maps.SmallMapConv2d
    results = []
    for layer in (slow, quick):
        pixels = torch.randn(3, 5, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        pixels.requires_grad_()
        out = layer(pixels)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        results.append((out, pixels.grad, *(weight.grad for weight in layer.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_bf16_agrees_within_its_precision() -> None:
    torch.manual_seed(0)
    slow = nn.Conv2d(64, 64, 3, 1, 1, bias=False)
    quick = small_maps.use(copy.deepcopy(slow))
    pixels = torch.randn(8, 64, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert quick(pixels).dtype == torch.bfloat16
        torch.testing.assert_close(quick(pixels).float(), slow(pixels).float(), atol=0.03, rtol=0.03)


def test_other_convolutions_stay_as_they_are() -> None:
    others = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    )
    assert all(type(part) is nn.Conv2d for part in small_maps.use(others).children())


def test_a_network_keeps_its_names_and_its_features() -> None:
    torch.manual_seed(0)
    slow = timm.create_model("resnet10t", num_classes=0).eval()
    quick = small_maps.use(copy.deepcopy(slow))
    assert list(quick.state_dict()) == list(slow.state_dict())
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(quick(pixels), slow(pixels), atol=1e-4, rtol=1e-4)
