"""Ordered labels: recognised, their loss, refused for words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trace_items import opened

from cellvision import finetune
from cellvision.core.config import build
from cellvision.core.errors import StrategyRefused
from cellvision.evidence import targets
from cellvision.strategies import STRATEGIES


def test_numbers_are_ordered_and_words_are_not(traces: Path) -> None:
    items = opened(traces).items
    assert targets.read(items, "distance").ordered
    items.table["far"] = items.table["distance"].map({0: "2", 1: "10", 2: "9"})
    assert targets.read(items, "far").classes == ("2", "9", "10")
    items.table["word"] = items.table["distance"].map({0: "a", 1: "b", 2: "3"})
    assert not targets.read(items, "word").ordered
    assert not targets.read(items, "noise").ordered  # two classes have no order to speak of


def test_corn_equals_the_slow_one() -> None:
    strategy = STRATEGIES.build("ordinal")
    torch.manual_seed(0)
    head, features = strategy.head(6, 4), torch.randn(10, 6)
    label = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 2, 3])
    score, total, count = head(features), 0.0, 0
    for item in range(10):
        for step in range(3):
            if label[item] >= step:
                chance = torch.sigmoid(score[item, step])
                total -= float(torch.log(chance if label[item] > step else 1 - chance))
                count += 1
    found = strategy.loss(head, features, torch.zeros(10, dtype=torch.long), label)
    assert float(found) == pytest.approx(total / count, rel=1e-5)


def test_ordinal_is_refused_for_words(traces: Path, tmp_path: Path) -> None:
    tiny = {"items": traces, "branch": "trace", "encoder": "mlp-8", "strategy": "ordinal", "workers": 0, "threads": 1}
    with pytest.raises(StrategyRefused, match="not three or more numbers"):
        finetune.run(build(finetune.Config, {**tiny, "target": "file"}), tmp_path / "run")
