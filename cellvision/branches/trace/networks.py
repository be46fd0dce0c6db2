"""Networks for traces: (n, 2 channels, time) - values, then masks of what is known - to (n, num_features).

Unknown points are zeros and take no part in pooling. A last channel with the time itself tells the convolutions when
something happens: a wave that comes late comes from afar.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellvision.branches.names import parse
from cellvision.branches.perceptron import hidden_layers
from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator

KERNELS = (7, 5)  # of the first two convolutions of `cnn`; 3 from then on
BRANCHES = (19, 9, 5)  # kernels side by side in an inception block
LONGEST = 11  # taps of a random kernel
HELP = "mlp-256-128, cnn-32-64-128, inception-16-3 (width and blocks), resnet-64-3 kernels-1000 or joint-500-32-64-128"


def network(name: str, channels: int, points: int) -> Network:
    """A random network by its name; ConfigError lists them."""
    kind, numbers = parse(name).kind, parse(name).sizes()
    if numbers:
        if kind == "mlp":
            return Mlp(channels, points, numbers)
        if kind == "cnn":
            return Cnn(channels, numbers)
        if kind in ("inception", "resnet") and len(numbers) == 2:
            return Residual(channels, numbers[0], numbers[1], inception=kind == "inception")
        if kind == "kernels" and len(numbers) == 1:
            return RandomKernels(channels, points, numbers[0])
        if kind == "joint" and len(numbers) > 1:
            return Joint(RandomKernels(channels, points, numbers[0]), Cnn(channels, numbers[1:]))
    raise ConfigError(f"the trace branch has encoders such as {HELP}, not {name!r}")


class Network(nn.Module):
    """Runs in full precision: what a trace tells is often smaller than the steps of bf16."""

    num_features: int

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        raise NotImplementedError

    def forward(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        with torch.autocast(traces.device.type, enabled=False):
            return self.features(traces.float())


class Mlp(Network):
    """Perceptron on all time points at once, with dropout."""

    def __init__(self, channels: int, points: int, widths: tuple[int, ...], dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.Sequential(*hidden_layers(2 * channels * points, widths, dropout))
        self.num_features = widths[-1]

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        return self.layers(traces.flatten(1))


def with_time(traces: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2c, t) -> the same with a channel of the time from -1 to 1, and (n, 1, t) where anything is known."""
    count, twice, points = traces.shape
    time = torch.linspace(-1, 1, points, device=traces.device, dtype=traces.dtype).expand(count, 1, points)
    return torch.cat([traces, time], 1), traces[:, twice // 2 :].amax(1, keepdim=True)


def pooled(features: Tensor, known: Tensor) -> Tensor:
    """(n, d, t), (n, 1, T) -> (n, 2d): mean and maximum over the time that is known."""
    mask = nn.functional.adaptive_max_pool1d(known, features.shape[2])
    mask = torch.where(mask.sum(2, keepdim=True) > 0, mask, torch.ones_like(mask))  # a trace without a known point
    mean = (features * mask).sum(2) / mask.sum(2)
    return torch.cat([mean, features.masked_fill(mask == 0, -torch.inf).amax(2)], 1)


class Cnn(Network):
    """Plain convolutions, halving the time after each."""

    def __init__(self, channels: int, widths: tuple[int, ...], dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise([2 * channels + 1, *widths])):
            taps = KERNELS[number] if number < len(KERNELS) else 3
            layers += [nn.Conv1d(before, after, taps, padding=taps // 2, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
            layers += [nn.MaxPool1d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.drop = nn.Dropout(dropout)
        self.num_features = 2 * widths[-1]

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        signal, observed = with_time(traces)
        return self.drop(pooled(self.layers(signal), observed))


class Inception(nn.Module):
    """Kernels of several lengths side by side, and a maximum (InceptionTime, Ismail Fawaz et al. 2020)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(before, width, 1, bias=False)
        self.sides = nn.ModuleList(nn.Conv1d(width, width, taps, padding=taps // 2, bias=False) for taps in BRANCHES)
        self.peak = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(before, width, 1, bias=False))
        self.norm = nn.BatchNorm1d(width * (len(BRANCHES) + 1))

    def forward(self, signal: Tensor) -> Tensor:
        """(n, before, time) -> (n, 4 width, time), one width a kernel and one for the maximum."""
        narrow = self.narrow(signal)
        return self.norm(torch.cat([*(side(narrow) for side in self.sides), self.peak(signal)], 1))


def plain_block(before: int, width: int) -> nn.Module:
    """Two convolutions (Wang, Yan and Oates 2017)."""
    return nn.Sequential(
        nn.Conv1d(before, width, 7, padding=3, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Conv1d(width, width, 5, padding=2, bias=False), nn.BatchNorm1d(width),
    )  # fmt: skip


class Residual(Network):
    """Blocks with shortcuts: inception blocks (4 `width` channels), or plain ones (`width` channels)."""

    def __init__(self, channels: int, width: int, blocks: int, inception: bool, dropout: float = 0.2) -> None:
        super().__init__()
        wide = width * (len(BRANCHES) + 1) if inception else width
        self.stem = nn.Sequential(
            nn.Conv1d(2 * channels + 1, wide, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(wide), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            Inception(wide, width) if inception else plain_block(wide, wide) for _ in range(blocks)
        )
        self.drop = nn.Dropout(dropout)
        self.num_features = 2 * wide

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        signal, observed = with_time(traces)
        signal = self.stem(signal)
        for block in self.blocks:
            signal = nn.functional.relu(signal + block(signal))
        return self.drop(pooled(signal, observed))


class RandomKernels(Network):
    """Random dilated kernels (ROCKET, Dempster et al. 2020): share of positive outputs, and the largest.

    The kernels are drawn once from their own seed and never trained. Values are standardised within each trace, over
    what is known of it, so that nothing has to be fitted; the trace's own mean and deviation are features beside.
    """

    def __init__(self, channels: int, points: int, count: int) -> None:
        super().__init__()
        rng = generator(0, "random kernels", channels, points, count)
        reach = max(1.0, (points - 1) / (LONGEST - 1))
        dilations = 2 ** rng.uniform(0, np.log2(reach), count).astype(int)
        self.dilations = sorted(set(dilations.tolist()))
        for dilation in self.dilations:
            size = int((dilations == dilation).sum())
            weight, bias = drawn(rng, size, channels)
            for what, values in (("weight", weight), ("bias", bias)):
                self.register_parameter(f"{what}_{dilation}", nn.Parameter(torch.from_numpy(values), False))
        self.num_features = 2 * count + 2 * channels

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        values, observed = traces.chunk(2, 1)
        count = observed.sum(2, keepdim=True).clamp(min=1)
        mean = (values * observed).sum(2, keepdim=True) / count
        centred = (values - mean) * observed
        deviation = (centred.square().sum(2, keepdim=True) / count).sqrt()
        flat = centred / deviation.clamp(min=1e-6)
        inside = observed.amax(1, keepdim=True)
        share = inside / inside.sum(2, keepdim=True).clamp(min=1)
        columns = [mean.squeeze(2), deviation.squeeze(2)]
        for dilation in self.dilations:
            weight, bias = getattr(self, f"weight_{dilation}"), getattr(self, f"bias_{dilation}")
            out = nn.functional.conv1d(flat, weight, bias, padding=dilation * (LONGEST // 2), dilation=dilation)
            columns += [((out > 0) * share).sum(2), out.masked_fill(inside == 0, -1e3).amax(2)]
        return torch.cat(columns, 1)


class Joint(Network):
    """Random kernels beside a network that is trained: what is known without learning, and what learning adds."""

    def __init__(self, kernels: RandomKernels, learned: Cnn, dropout: float = 0.5) -> None:
        super().__init__()
        self.kernels, self.learned = kernels, learned
        self.norm = nn.BatchNorm1d(kernels.num_features, affine=False)
        self.drop = nn.Dropout(dropout)
        self.num_features = kernels.num_features + learned.num_features

    def features(self, traces: Tensor) -> Tensor:
        """(n, 2 channels, time), values and masks -> (n, num_features)."""
        with torch.no_grad():
            fixed = self.kernels(traces)
        return torch.cat([self.drop(self.norm(fixed)), self.learned(traces)], 1)


def drawn(rng: np.random.Generator, count: int, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(count, channels, LONGEST) weights of mean 0, 7 to 11 taps on one or more channels, and (count,) biases."""
    weight = rng.standard_normal((count, channels, LONGEST))
    cut = rng.integers(0, 3, count)[:, None, None]
    tap = np.arange(LONGEST)
    inside = np.broadcast_to((tap >= cut) & (tap < LONGEST - cut), weight.shape)
    weight = np.where(inside, weight, 0)
    weight = np.where(inside, weight - weight.sum(2, keepdims=True) / inside.sum(2, keepdims=True), 0)
    used = rng.random((count, channels)) < 0.7
    used[np.arange(count), rng.integers(0, channels, count)] = True
    return (weight * used[..., None]).astype(np.float32), rng.uniform(-1, 1, count).astype(np.float32)
