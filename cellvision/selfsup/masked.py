"""Masked bins: hide the level of some genes of a cell, silent ones too, and predict it from the others.

After scBERT (Yang et al. 2022) and scGPT (Cui et al. 2024), made quick for a CPU: only expressed genes are read, at
most `context` of them in a step; hidden genes are asked, and read by nobody. Perplexity is measured on held-out units
beside that of each gene's own share of levels among the hidden genes of training cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from cellvision.core.config import PluginConfig, option
from cellvision.core.errors import ConfigError
from cellvision.core.rng import torch_seed
from cellvision.selfsup import Method

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 64  # cells measured at once


class Masked(Method):
    """Half of the hidden genes are expressed ones, half are silent ones."""

    views = 1
    augment = False
    tried_on = ("rna", "transformer-1x16x2")

    class Config(PluginConfig):
        """Options of masked bins."""

        name: Literal["masked"] = "masked"
        share: float = option(
            0.15, "of all genes, hidden in a step; never more than half of a cell's expressed ones", gt=0, le=0.5
        )
        context: int = option(256, "expressed genes read in a step, drawn at random", ge=8)
        cell_weight: float = option(
            0.5, "of predicting the same from the cell's features alone, which probes use", ge=0
        )

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def learner(self, encoder: nn.Module) -> nn.Module:
        """The encoder alone: it decodes itself."""
        check(encoder)
        return nn.ModuleDict({"encoder": encoder})

    def step(self, learner: Any, views: list[Tensor]) -> Tensor:
        """(n, genes) log-normalised cells -> mean cross-entropy over what was hidden."""
        encoder, items = learner.encoder, views[0]
        bins = encoder.bins_of(items)
        asked, hidden = draw_masks(bins, self.cfg.share)
        target = bins.gather(1, asked)[hidden]
        alone, beside = answers(encoder, items, bins, asked, hidden, self.cfg.context)
        loss = nn.functional.cross_entropy(beside[hidden], target)
        return loss + self.cfg.cell_weight * nn.functional.cross_entropy(alone[hidden], target)

    def validate(self, encoder: Any, branch: Any, state: Any, train: NDArray, test: NDArray) -> dict[str, float]:
        """(n,) training and (m,) unseen rows -> perplexities on these, and the loss of the genes' own shares there.

        Without held-out cells that loss is the training cells', and no perplexity is claimed.
        """
        metrics = perplexities(encoder, branch, state, train, test if len(test) else train, self.cfg.share)
        chance = (1 + self.cfg.cell_weight) * math.log(metrics["perplexity_marginal"])
        return (metrics if len(test) else {}) | {"chance": chance}


def answers(
    encoder: Any, values: Tensor, bins: Tensor, asked: Tensor, hidden: Tensor, context: int | None
) -> tuple[Tensor, Tensor]:
    """(n, q, bins) logits of what is asked: from the cell's features alone, and from every gene that is shown."""
    away = covered(bins, asked, hidden)
    hints = encoder.hints(values, (bins > 0) & ~away, asked)
    questions = encoder.ask(asked, hints)
    cell, shown = encoder.read(values, bins, away, context, questions)
    return encoder.cell_logits(asked, hints, questions, cell), encoder.logits(asked, hints, shown)


def check(encoder: Any) -> None:
    if not hasattr(encoder, "bins_of"):
        raise ConfigError("masked-bin pretraining needs an encoder that reads bins, such as transformer-3x64x4")


def draw_masks(bins: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(n, genes) bins -> genes asked (n, q), and which of them are truly hidden: a cell may have too few of a kind.

    Half of q = share * genes are expressed genes, half silent ones; at most half of the expressed genes are hidden, so
    that something is left to read, and as many silent ones.
    """
    half = max(1, round(share * bins.shape[1] / 2))
    expressed = bins > 0
    count = torch.minimum(expressed.sum(1) // 2, torch.full((len(bins),), half, device=bins.device))
    chosen, hidden = [], []
    for kind in (expressed, ~expressed):
        rank = torch.where(kind, torch.rand(bins.shape, device=bins.device), -1.0)
        top_ranks, index = rank.topk(min(half, bins.shape[1]), dim=1)
        chosen.append(index)
        place = torch.arange(index.shape[1], device=bins.device)
        hidden.append((top_ranks >= 0) & (place < count.unsqueeze(1)))
    return torch.cat(chosen, 1), torch.cat(hidden, 1)


def covered(bins: Tensor, asked: Tensor, hidden: Tensor) -> Tensor:
    """(n, genes) true where a gene is hidden."""
    return torch.zeros(bins.shape, dtype=torch.bool, device=bins.device).scatter_(1, asked, hidden)


def hidden_rates(bins: Tensor, share: float) -> Tensor:
    """(n, genes) probability of each gene of each cell to be hidden."""
    half = max(1, round(share * bins.shape[1] / 2))
    expressed = (bins > 0).sum(1, keepdim=True)
    count = torch.minimum(expressed // 2, torch.full_like(expressed, half)).float()
    silent = (bins.shape[1] - expressed).float()
    rate_silent = torch.minimum(count, silent) / silent.clamp(min=1)
    return torch.where(bins > 0, count / expressed.clamp(min=1), rate_silent)


def perplexities(
    encoder: Any, branch: Any, state: Any, train: NDArray, test: NDArray, share: float
) -> dict[str, float]:
    """exp of the mean negative log-likelihood of the hidden genes of unseen cells, in bins; (n,), (m,) rows of cells.

    perplexity_marginal: each gene's own shares among hidden genes of the training cells, so that it knows how often
    hidden genes are expressed; perplexity_plain_marginal: its shares among all training cells.
    """
    from cellvision.training.device import device_of

    training, device = encoder.training, device_of(encoder)
    encoder.eval()

    def read(rows: NDArray) -> Tensor:
        return torch.from_numpy(branch.batch(rows, state)).to(device)

    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        marginal = marginal_of((encoder.bins_of(read(rows)) for rows in parts(train)), encoder.log_share.shape, share)
        torch.manual_seed(torch_seed(0, "perplexity"))
        names = ("model", "marginal", "plain_marginal")
        total = dict.fromkeys(names, 0.0)
        loud = dict.fromkeys(names, 0.0)
        right = dict.fromkeys(names, 0)
        count = count_loud = 0
        for rows in parts(test):
            values = read(rows)
            bins = encoder.bins_of(values)
            asked, hidden = draw_masks(bins, share)
            logits = answers(encoder, values, bins, asked, hidden, None)[1]
            target, which = bins.gather(1, asked)[hidden], asked[hidden]
            guesses = (logits[hidden], marginal[which], encoder.log_share[which])
            expressed = target > 0
            for name, guess in zip(names, guesses, strict=True):
                lost = nn.functional.cross_entropy(guess, target, reduction="none")
                total[name] += float(lost.sum())
                loud[name] += float(lost[expressed].sum())
                right[name] += int((guess.argmax(1) == target)[expressed].sum())
            count, count_loud = count + len(target), count_loud + int(expressed.sum())
    encoder.train(training)
    metrics = {_named("perplexity", name): math.exp(value / max(1, count)) for name, value in total.items()}
    metrics |= {
        _named("perplexity_expressed", name): math.exp(value / max(1, count_loud)) for name, value in loud.items()
    }
    metrics |= {_named("accuracy_expressed", name): value / max(1, count_loud) for name, value in right.items()}
    ratio = metrics["perplexity"] / metrics["perplexity_marginal"]
    return {**metrics, "perplexity_ratio": ratio, "hidden": count, "hidden_expressed": count_loud}


def _named(what: str, name: str) -> str:
    return what if name == "model" else f"{what}_{name}"


def parts(rows: NDArray) -> list[NDArray]:
    """(n,) -> its pieces of at most (CHUNK,), in order."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def marginal_of(cells: Any, shape: torch.Size, share: float) -> Tensor:
    """Bins of training cells, part by part -> (genes, bins) log shares among hidden genes, each cell's law of masks
    taken into account exactly."""
    tally = torch.full(shape, 0.0, dtype=torch.float64)
    for bins in cells:
        tally.scatter_add_(1, bins.T.cpu(), hidden_rates(bins, share).T.double().cpu())
    smooth = tally + 0.5 * share  # half a cell in every bin
    return (smooth / smooth.sum(1, keepdim=True)).log().float()
