"""Networks on rows of numbers and categories: a perceptron, a feature transformer, and no layers at all.

Input (n, d + gaps + categories): d numbers, a 1 where a number with gaps was missing, and the number of each category,
0 for an unknown one. Output (n, num_features).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellvision.branches.names import parse
from cellvision.branches.perceptron import hidden_layers
from cellvision.core.errors import ConfigError

TOKENS = 4096  # features a transformer may have
HEAD_WIDTH = 8
KNOWN = "mlp-256-128 (hidden widths), ft-32-2 (width and layers of a transformer over features), or linear"


def build(name: str, numbers: int, gaps: int, levels: tuple[int, ...], dropout: float) -> nn.Module:
    """ConfigError for a name that is none."""
    kind, widths = parse(name).kind, parse(name).sizes()
    if name == "linear":
        return Linear(numbers, gaps, levels)
    if kind == "mlp" and widths:
        return Perceptron(numbers, gaps, levels, widths, dropout)
    if kind == "ft" and len(widths) == 2 and widths[0] % HEAD_WIDTH == 0:
        return FeatureTransformer(numbers, gaps, levels, widths[0], widths[1], dropout)
    raise ConfigError(f"no encoder of features named {name!r}; there are {KNOWN}")


class Flat(nn.Module):
    """(n, d + gaps + categories) -> (n, width): the categories as one column a level."""

    def __init__(self, numbers: int, gaps: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.plain, self.levels = numbers + gaps, levels
        self.width = self.plain + sum(levels)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d + gaps + categories) -> (n, width); an unknown category has no 1."""
        codes = rows[:, self.plain :].long()
        hot = [nn.functional.one_hot(codes[:, at], count + 1)[:, 1:] for at, count in enumerate(self.levels)]
        return torch.cat([rows[:, : self.plain], *hot], dim=1)


class Linear(nn.Module):
    """The inputs themselves, each times a weight that begins at 1: with a head, a linear classifier."""

    def __init__(self, numbers: int, gaps: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.flat = Flat(numbers, gaps, levels)
        self.num_features = self.flat.width
        self.weight = nn.Parameter(torch.ones(self.num_features))

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d + gaps + categories) -> (n, num_features)."""
        return self.flat(rows) * self.weight


class Perceptron(nn.Sequential):
    """Hidden layers with batch norm and dropout."""

    def __init__(
        self, numbers: int, gaps: int, levels: tuple[int, ...], widths: tuple[int, ...], dropout: float
    ) -> None:
        flat = Flat(numbers, gaps, levels)
        super().__init__(flat, *hidden_layers(flat.width, widths, dropout))
        self.num_features = widths[-1]


class FeatureTransformer(nn.Module):
    """FT-Transformer (Gorishniy et al. 2021, arXiv:2106.11959): one token a feature, and one that collects."""

    def __init__(
        self, numbers: int, gaps: int, levels: tuple[int, ...], width: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        tokens = numbers + len(levels)
        if tokens > TOKENS:
            raise ConfigError(f"{tokens} features are too many for ft, which takes {TOKENS}; use mlp-256-128")
        self.numbers, self.gaps, self.num_features = numbers, gaps, width
        spread = width**-0.5
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(tokens + 1, width).uniform_(-spread, spread))
        self.gap = nn.Parameter(torch.zeros(gaps, width))
        self.levels = nn.ModuleList(nn.Embedding(count + 1, width) for count in levels)
        block = nn.TransformerEncoderLayer(
            width, width // HEAD_WIDTH, 2 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d + gaps + categories) -> (n, num_features), what the collecting token became."""
        plain, gaps, codes = rows.split([self.numbers, self.gaps, len(self.levels)], dim=1)
        parts = [plain.unsqueeze(2) * self.weight]
        parts += [embed(codes[:, at].long()).unsqueeze(1) for at, embed in enumerate(self.levels)]
        tokens = torch.cat([*parts, parts[0].new_zeros(len(rows), 1, self.num_features)], dim=1) + self.bias
        tokens = torch.cat([tokens[:, :-1], tokens[:, -1:] + (gaps @ self.gap).unsqueeze(1)], dim=1)
        return self.blocks(tokens)[:, -1].relu()
