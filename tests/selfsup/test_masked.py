"""masked: what is hidden, what may be seen, perplexity against references worked out by hand, and the saved object."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_counts import chain
from torch import Tensor

from cellvision import embed, finetune, plan, pretrain
from cellvision.branches import BRANCHES
from cellvision.branches.rna.networks import GeneTransformer, pack
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError
from cellvision.selfsup import METHODS, masked

GENES, BINS = 50, 6


def state(genes: int = GENES, bins: int = BINS) -> dict[str, Any]:
    """Edges at 1, 2, 3 … for every gene, and shares that differ between genes."""
    edges = np.tile(np.arange(1, bins - 1, dtype=np.float32), (genes, 1))
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(bins), genes)
    axes = 0.2 * rng.standard_normal((8, genes)).astype(np.float32)
    mean, std = np.full(genes, 1.4, np.float32), np.full(genes, 1.6, np.float32)
    return {"edges": edges, "log_share": np.log(share).astype(np.float32), "mean": mean, "std": std, "axes": axes}


def network(dropout: float = 0.0) -> GeneTransformer:
    """A small random transformer whose decoders say something."""
    torch.manual_seed(0)
    made: Any = GeneTransformer(state(), 2, 16, 4, dropout)
    for part in (made.decode, made.decode_cell[2], made.direct):
        torch.nn.init.normal_(part.weight, std=0.3)
    return made


def cells(count: int = 8, expressed: float = 0.5) -> Tensor:
    """Values of 0 or 0.3 … 5.3."""
    rng = torch.Generator().manual_seed(1)
    loud = torch.rand(count, GENES, generator=rng) < expressed
    return torch.where(loud, 0.3 + 5 * torch.rand(count, GENES, generator=rng), 0.0)


# -- masks --


def test_half_of_what_is_hidden_is_expressed() -> None:
    bins = network().bins_of(cells(40))
    torch.manual_seed(0)
    asked, hidden = masked.draw_masks(bins, 0.2)
    assert hidden.all()
    assert asked.shape == (40, 10)
    assert ((bins.gather(1, asked) > 0).sum(1) == 5).all()
    assert all(len(set(row.tolist())) == 10 for row in asked)


def test_never_more_than_half_of_the_expressed_genes_are_hidden() -> None:
    bins = network().bins_of(cells(40, 0.06))
    torch.manual_seed(0)
    asked, hidden = masked.draw_masks(bins, 0.5)
    loud = (bins.gather(1, asked) > 0) & hidden
    assert (loud.sum(1) == (bins > 0).sum(1) // 2).all()
    assert (hidden.sum(1) == 2 * loud.sum(1)).all()


def test_masks_follow_the_law_that_the_marginal_assumes() -> None:
    """Known truth: how often each gene of each cell is hidden over many draws."""
    bins = network().bins_of(cells(6))
    torch.manual_seed(0)
    times, count = 1000, torch.zeros(bins.shape)
    for _ in range(times):
        count += masked.covered(bins, *masked.draw_masks(bins, 0.2)).float()
    torch.testing.assert_close(count / times, masked.hidden_rates(bins, 0.2), atol=0.06, rtol=0)


# -- what may be seen --


def test_hidden_levels_do_not_leak_into_any_answer() -> None:
    made, values = network().eval(), cells()
    bins = made.bins_of(values)
    torch.manual_seed(0)
    asked, hidden = masked.draw_masks(bins, 0.2)
    before = masked.answers(made, values, bins, asked, hidden, None)
    other = torch.where(masked.covered(bins, asked, hidden) & (values > 0), 5.9 - values, values)
    assert not torch.equal(other, values)
    after = masked.answers(made, other, made.bins_of(other), asked, hidden, None)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b)


def test_a_hidden_gene_looks_the_same_whether_it_is_expressed_or_silent() -> None:
    made, values = network().eval(), cells()
    bins = made.bins_of(values)
    torch.manual_seed(0)
    asked, hidden = masked.draw_masks(bins, 0.2)
    silenced = torch.where(masked.covered(bins, asked, hidden), 0.0, values)
    before = masked.answers(made, values, bins, asked, hidden, None)[1]
    after = masked.answers(made, silenced, made.bins_of(silenced), asked, hidden, None)[1]
    torch.testing.assert_close(before, after)


def test_questions_do_not_change_the_cell_or_each_other() -> None:
    made, values = network().eval(), cells()
    bins = made.bins_of(values)
    nothing, asked = torch.zeros_like(bins).bool(), torch.tensor([[3, 9, 20]]).expand(8, 3)
    questions = made.ask(asked, made.hints(values, bins > 0, asked))
    alone = made.read(values, bins, nothing, None)[0]
    cell, answers = made.read(values, bins, nothing, None, questions)
    torch.testing.assert_close(cell, alone)
    torch.testing.assert_close(made.read(values, bins, nothing, None, questions[:, 1:2])[1], answers[:, 1:2])


def test_padding_and_order_change_nothing() -> None:
    made, values = network().eval(), cells(8, 0.3)
    values[0, 10:] = 0  # one cell much shorter than its batch mates
    together = made(values)
    alone = torch.cat([made(values[number : number + 1]) for number in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_pack_takes_the_shown_genes_and_no_others() -> None:
    shown = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0]]).bool()
    index, there = pack(shown, None, None)
    assert index[0].tolist() == [0, 2, 3]
    assert index[1, there[1]].tolist() == [1]
    index, there = pack(shown, 2, torch.tensor([0.1, 0.9, 0.8, 0.5, 0.7]))
    assert index[0].tolist() == [2, 3]
    assert there.sum(1).tolist() == [2, 1]
    torch.manual_seed(0)
    drawn = {tuple(pack(shown, 2, None)[0][0].tolist()) for _ in range(30)}
    assert drawn == {(0, 2), (0, 3), (2, 3)}


def test_hints_are_the_bins_of_whole_counts() -> None:
    """Known truth: where one count is worth log1p(1), k counts are log1p(k), whatever else is shown."""
    made = network()
    values = torch.zeros(1, GENES)
    values[0, :3] = torch.log1p(torch.tensor([1.0, 5.0, 30.0]))
    asked = torch.tensor([[7, 8]])
    hints = made.hints(values, values > 0, asked)[0, 0] % BINS
    expected = made.bins_of(torch.log1p(torch.tensor([[1, 2, 3, 4, 6, 8, 12, 16.0]])).T.expand(8, GENES).contiguous())
    assert hints.tolist() == expected[:, 7].tolist()


def test_cell_without_a_shown_gene_is_still_read() -> None:
    made, values = network().eval(), torch.zeros(2, GENES)
    assert torch.isfinite(made(values)).all()
    assert torch.isfinite(made.hints(values, values > 0, torch.zeros(2, 1, dtype=torch.long))).all()


# -- learning and measuring --


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_the_slow_cross_entropy(seed: int) -> None:
    made, values = network().eval(), cells()
    method = masked.Masked(masked.Masked.Config(share=0.2, cell_weight=0.0))
    torch.manual_seed(seed)
    loss = method.step(method.learner(made), [values])
    torch.manual_seed(seed)
    bins = made.bins_of(values)
    asked, hidden = masked.draw_masks(bins, 0.2)
    logits = masked.answers(made, values, bins, asked, hidden, method.cfg.context)[1]
    slow = [-math.log(float(logits[c, q].softmax(0)[bins[c, asked[c, q]]])) for c in range(8) for q in range(10)]
    assert float(loss.detach()) == pytest.approx(np.mean(slow), rel=1e-4)


def test_marginal_is_the_weighted_share_of_each_bin() -> None:
    bins = network().bins_of(cells(30))
    parts = torch.split(bins, 7)
    rates = masked.hidden_rates(bins, 0.2)
    found = masked.marginal_of(iter(parts), torch.Size((GENES, BINS)), 0.2).exp()
    for gene in (0, 17, 49):
        slow = [float(rates[:, gene][bins[:, gene] == level].sum()) + 0.1 for level in range(BINS)]
        np.testing.assert_allclose(found[gene], np.array(slow) / sum(slow), rtol=1e-4)


class Table:
    """A branch that is nothing but values."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.numpy()

    def batch(self, rows: Any, state: Any) -> Any:
        return self.values[rows]


def test_a_network_that_knows_nothing_has_the_perplexity_of_the_plain_marginal() -> None:
    torch.manual_seed(0)
    made = GeneTransformer(state(), 1, 8, 2)
    branch = Table(cells(60))
    found = masked.perplexities(made, branch, None, np.arange(40), np.arange(40, 60), 0.2)
    assert found["perplexity"] == pytest.approx(found["perplexity_plain_marginal"], rel=1e-5)
    assert found["hidden"] == 2 * found["hidden_expressed"] == 200
    again = masked.perplexities(made, branch, None, np.arange(40), np.arange(40, 60), 0.2)
    assert again == found, "the masks of a measurement are always the same"
    assert made.training


def test_masked_bins_need_an_encoder_with_bins(expression: Path) -> None:
    branch = BRANCHES.build("rna", path=expression)
    rows = np.arange(20)
    fitted = branch.fit(rows)
    with pytest.raises(ConfigError, match="transformer-3x64x4"):
        METHODS.build("masked").learner(branch.network("mlp-8", fitted))


def run(stage: Any, out: Path, **options: Any) -> dict[str, Any]:
    shared = {"branch": {"name": "rna", "bins": 6}, "unit": "donor", "workers": 0, "threads": 1, "device": "cpu"}
    known = stage.Config.model_fields
    stage.run(build(stage.Config, {key: value for key, value in (shared | options).items() if key in known}), out)
    return files.read_json(out / "metrics.json")


@pytest.fixture(scope="module")
def split(expression: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folds that a pretraining and what is asked of it share."""
    out = tmp_path_factory.mktemp("split") / "plan"
    chain(plan, out, expression)
    return out / "splits.csv"


@pytest.fixture(scope="module")
def learned(expression: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masked") / "run"
    loop = {"steps": 150, "batch": 48, "lr": 5e-3, "precision": "fp32"}
    method = {"name": "masked", "share": 0.3}
    options = {"method": method, "encoder": "transformer-2x16x4", "splits": split, "fold": "0", "loop": loop}
    run(pretrain, out, items=expression, **options)
    return out


def test_pretraining_beats_the_marginal_on_donors_it_never_saw(learned: Path) -> None:
    found = files.read_json(learned / "metrics.json")
    assert found["perplexity_ratio"] < 0.95
    assert found["perplexity"] < found["perplexity_marginal"] < found["perplexity_plain_marginal"]
    assert found["chance"] == pytest.approx(1.5 * math.log(found["perplexity_marginal"]))
    assert (learned / "curves.png").exists()


def test_probe_reuses_the_preprocessing_of_the_pretraining(
    learned: Path, expression: Path, split: Path, tmp_path: Path
) -> None:
    options = {"items": expression, "splits": split, "target": "kind", "encoder": str(learned), "fold": "0"}
    wrong = {"branch": {"name": "rna", "bins": 9, "genes": 7, "target_sum": 1.0}}
    first = run(embed, tmp_path / "a", **options)
    again = run(embed, tmp_path / "b", **options, **wrong)
    assert first["linear_balanced_accuracy"] > 0.65
    for key in ("linear_balanced_accuracy", "linear_auc_items", "rank"):
        assert first[key] == again[key], "bins, genes and scale come from the encoder, not from the options"
    found = run(finetune, tmp_path / "ft", **options, tune="linear", loop={"steps": 300, "lr": 0.01})
    assert found["balanced_accuracy"] > 0.65


def test_pretraining_is_the_same_bits_again(expression: Path, tmp_path: Path) -> None:
    loop = {"steps": 10, "batch": 48, "lr": 5e-3, "precision": "fp32"}
    options = {"method": {"name": "masked", "share": 0.3}, "encoder": "transformer-2x16x4", "fold": "0", "loop": loop}
    for name in "ab":
        run(pretrain, tmp_path / name, items=expression, **options)
    for name in ("encoder/weights.safetensors", "curves.parquet"):
        assert files.sha256_file(tmp_path / "a" / name) == files.sha256_file(tmp_path / "b" / name), name


def test_pretraining_lowers_the_loss(learned: Path) -> None:
    history = pd.read_parquet(learned / "curves.parquet")
    assert history["loss"].tail(20).mean() < history["loss"].head(20).mean()
