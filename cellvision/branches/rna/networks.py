"""Networks on log-normalised expression (n, genes): perceptron, 1D convolution, and a transformer on expressed genes.

Each carries its preprocessing as buffers: the first two standardise, the transformer bins.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cellvision.branches.names import parse
from cellvision.branches.perceptron import hidden_layers
from cellvision.branches.rna.genes import LIMIT
from cellvision.core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellvision.branches import State

CONTEXT = 512  # expressed genes that are read of a cell for its features; of more, always the same ones come first
DROPOUT = 0.2
HINTS = (1, 2, 3, 4, 6, 8, 12, 16)  # counts whose bins are told beside a gene that is asked for
NAMES = "mlp-256-64, cnn-32-64 or transformer-3x64x4 (layers x width x heads)"


def build(name: str, state: State) -> nn.Module:
    """A random network of that name; ConfigError for other names."""
    kind, widths, shape = parse(name).kind, parse(name).sizes(), parse(name).sizes("x")
    if kind in ("mlp", "cnn") and widths:
        backbone = perceptron(widths, state) if kind == "mlp" else convolution(widths)
        return Standardised(backbone, widths[-1], state)
    if kind == "transformer" and len(shape) == 3:
        layers, width, heads = shape
        if width % heads:
            raise ConfigError(f"{name!r}: the width must be a multiple of the heads")
        if "edges" not in state:
            raise ConfigError("these values are scaled, so genes have no silence and no bins; use mlp or cnn")
        return GeneTransformer(state, layers, width, heads)
    raise ConfigError(f"the rna branch has encoders such as {NAMES}, not {name!r}")


class Standardised(nn.Module):
    """A network behind the mean and spread of the training cells."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, num_features: int, state: State) -> None:
        super().__init__()
        self.backbone, self.num_features = backbone, num_features
        self.register_buffer("mean", torch.as_tensor(state["mean"]))
        self.register_buffer("std", torch.as_tensor(state["std"]))

    def forward(self, values: Tensor) -> Tensor:
        """(n, genes) log-normalised -> (n, num_features)."""
        return self.backbone(((values - self.mean) / self.std).clamp(-LIMIT, LIMIT))


def perceptron(widths: tuple[int, ...], state: State) -> nn.Module:
    """Batch norm and dropout after every hidden layer; the first one starts with the principal axes of the cells."""
    network = nn.Sequential(*hidden_layers(len(state["mean"]), widths, DROPOUT))
    if "axes" in state:
        start_at_axes(network.get_parameter("0.weight"), state["axes"])
    return network


def convolution(widths: tuple[int, ...]) -> nn.Module:
    """Kernels of 7 with stride 3 over the genes in the file's order, which means little: kept as a comparison."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, -1))]
    for before, after in itertools.pairwise([1, *widths]):
        layers += [nn.Conv1d(before, after, 7, 3, padding=3), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Dropout(DROPOUT))


def start_at_axes(weight: Tensor, axes: NDArray) -> None:
    """The first rows of weight (outputs, genes) become the axes (n, genes), as many as there is room for."""
    count = min(len(axes), len(weight))
    with torch.no_grad():
        weight[:count] = torch.as_tensor(axes[:count])


class Block(nn.Module):
    """A pre-norm transformer layer. Everyone looks at the context; the asked tokens are seen by nobody.

    So what a cell's context becomes does not depend on what is asked about it.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, context: int, padding: Tensor | None) -> Tensor:
        """(n, tokens, width), the first `context` of them being looked at; padding (n, 1, 1, context) is true where
        there is one."""
        count, length, width = tokens.shape
        normal = self.norm(tokens)
        query = self.query(normal).view(count, length, self.heads, -1).transpose(1, 2)
        projected = self.key_value(normal[:, :context]).view(count, context, 2, self.heads, -1)
        key, value = projected.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, padding)
        tokens = tokens + self.drop(self.out(seen.transpose(1, 2).reshape(count, length, width)))
        return tokens + self.drop(self.mlp(tokens))


class GeneTransformer(nn.Module):
    """Tokens are a cell's expressed genes, each its gene and its bin, and one token for the cell.

    The cell's token starts as a linear summary of all genes that are not hidden, silent ones too; before training it
    holds the principal axes of the training cells. Features of a cell, (n, 3 width): that summary, what the token
    became, and the mean over the genes. A gene that is asked for comes with the bins that 1, 2, 3 … counts would fall
    into: of normalised counts the smallest shown value is one count, so the depth of the cell, which decides the bins
    of rare genes, need not be guessed.
    """

    edges: Tensor
    log_share: Tensor
    first: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, state: State, layers: int, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        genes, bins = state["log_share"].shape
        self.num_features, self.bins = 3 * width, bins
        for name in ("edges", "log_share", "mean", "std"):
            self.register_buffer(name, torch.as_tensor(state[name]))
        self.summary = nn.Linear(genes, width, bias=False)
        nn.init.zeros_(self.summary.weight)
        start_at_axes(self.summary.weight, state["axes"])
        order = torch.rand(genes, generator=torch.Generator().manual_seed(0))
        self.register_buffer("first", order)
        self.gene, self.level = nn.Embedding(genes, width), nn.Embedding(bins, width)
        self.cell, self.asked = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.hint = nn.Embedding(len(HINTS) * bins, width)
        for weight in (self.gene.weight, self.level.weight, self.cell, self.asked):
            nn.init.normal_(weight, std=0.5)
        nn.init.normal_(self.hint.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.decode = zero_ends(nn.Linear(width, bins))
        self.decode_cell = nn.Sequential(
            nn.Linear(4 * width, 2 * width), nn.GELU(), zero_ends(nn.Linear(2 * width, bins))
        )
        self.direct = nn.Embedding(len(HINTS) * bins, bins)
        nn.init.zeros_(self.direct.weight)

    def bins_of(self, values: Tensor) -> Tensor:
        """(n, genes) log-normalised -> (n, genes) bins, 0 being silence."""
        place = torch.searchsorted(self.edges, values.T.contiguous(), right=True).T
        return torch.where(values > 0, place + 1, 0)

    def hints(self, values: Tensor, shown: Tensor, asked: Tensor) -> Tensor:
        """(n, genes) values and which are shown, (n, q) genes -> (n, q, hints): rows of the hint tables."""
        one_count = torch.where(shown, values, torch.inf).amin(1).clamp(max=LIMIT)
        levels = torch.log1p(one_count.expm1().unsqueeze(1) * torch.tensor(HINTS, device=values.device))
        edges = self.edges[asked]
        bins = torch.stack([1 + (edges <= level[:, None, None]).sum(2) for level in levels.unbind(1)], 2)
        return bins + self.bins * torch.arange(len(HINTS), device=values.device)

    def forward(self, values: Tensor) -> Tensor:
        """(n, genes) log-normalised -> (n, 3 width) features, of at most CONTEXT expressed genes."""
        bins = self.bins_of(values)
        return self.read(values, bins, torch.zeros_like(bins, dtype=torch.bool), CONTEXT)[0]

    def ask(self, asked: Tensor, hints: Tensor) -> Tensor:
        """(n, q) genes and their hints -> (n, q, width) what the question is."""
        return self.gene(asked) + self.asked + self.hint(hints).sum(2)

    def read(
        self, values: Tensor, bins: Tensor, hidden: Tensor, limit: int | None, questions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """values, bins, hidden (n, genes), questions (n, q, width) -> features (n, 3 width), answers (n, q, width).

        Of the expressed genes at most `limit` are read: drawn at random in training, else the first by a fixed order.
        """
        device = bins.device.type
        lower = device != "cpu" and torch.is_autocast_enabled(
            device
        )  # measured: on a processor bf16 attention is slower
        with torch.autocast(device, torch.get_autocast_dtype(device), enabled=lower):
            return self._read(values, bins, hidden, limit, questions)

    def _read(
        self, values: Tensor, bins: Tensor, hidden: Tensor, limit: int | None, questions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        standardised = ((values - self.mean) / self.std).clamp(-LIMIT, LIMIT).masked_fill(hidden, 0.0)
        summary = self.summary(standardised)
        shown = (bins > 0) & ~hidden
        index, there = pack(shown, limit, None if self.training else self.first)
        context = self.gene(index) + self.level(bins.gather(1, index))
        tokens = torch.cat([(self.cell + summary).unsqueeze(1), context], 1)
        length = tokens.shape[1]
        if questions is not None:
            tokens = torch.cat([tokens, questions], 1)
        whole = bool(there.all())
        padding = None if whole else nn.functional.pad(there, (1, 0), value=True)[:, None, None, :]
        for block in self.blocks:
            tokens = block(tokens, length, padding)
        tokens = self.norm(tokens)
        weight = there.unsqueeze(2).to(tokens.dtype)
        mean = (tokens[:, 1:length] * weight).sum(1) / weight.sum(1).clamp(min=1)
        return torch.cat([summary, tokens[:, 0], mean], 1), tokens[:, length:]

    def logits(self, asked: Tensor, hints: Tensor, answers: Tensor) -> Tensor:
        """(n, q) genes, their hints, (n, q, width) answers -> (n, q, bins), on top of the gene's own shares."""
        return self.decode(answers).float() + self.direct(hints).sum(2) + self.log_share[asked]

    def cell_logits(self, asked: Tensor, hints: Tensor, questions: Tensor, cell: Tensor) -> Tensor:
        """The same from the cell's features (n, 3 width) alone."""
        cell_questions = torch.cat([cell.unsqueeze(1).expand(-1, asked.shape[1], -1), questions], 2)
        return self.decode_cell(cell_questions).float() + self.direct(hints).sum(2) + self.log_share[asked]


def zero_ends(layer: nn.Linear) -> nn.Linear:
    """A last layer that says nothing at first."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def pack(shown: Tensor, limit: int | None, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n, genes) -> positions (n, t) of shown genes, and which are no padding.

    Of more than `limit`, those with the largest `first` (genes,), or random ones.
    """
    most = max(1, int(shown.sum(1).max()))
    if limit is not None and most > limit:
        rank = torch.rand(shown.shape, device=shown.device) if first is None else first.expand(shown.shape)
        shown = (
            torch.zeros_like(shown).scatter_(1, torch.where(shown, rank, -1.0).topk(limit, dim=1).indices, True) & shown
        )
        most = limit
    order = torch.argsort(shown.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
    return order, shown.gather(1, order)
