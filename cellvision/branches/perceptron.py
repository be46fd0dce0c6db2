"""The perceptron of all branches of numbers: linear, batch norm, ReLU and dropout, layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def hidden_layers(inputs: int, widths: Sequence[int], dropout: float) -> list[nn.Module]:
    """(n, inputs) -> (n, widths[-1]), as modules in order."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *widths]):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout)]
    return layers
