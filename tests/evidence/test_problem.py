"""Rows that train and rows that are tested: balance and subsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trace_items import CELLS, opened

from cellvision.core.errors import ConfigError
from cellvision.core.rng import generator
from cellvision.evidence import splits, targets
from cellvision.evidence.problem import Supervised
from cellvision.strategies import STRATEGIES, Labelled


def problem_of(branch: Any, fold: str = "0", only: str | None = None) -> Supervised:
    made = splits.resolve(branch.items, None, None, None)
    return Supervised(branch, made, targets.read(branch.items, "distance", (), only), fold, 0)


def test_classes_are_balanced_by_exact_target_among_training_rows_only(traces: Path) -> None:
    """One cell in nine is the middle; it is drawn as often as the others, and only from training simulations."""
    problem = problem_of(opened(traces))
    train, strategy = problem.train_rows(0), STRATEGIES.build("inherit")
    labelled = Labelled(problem.bags(train)[0], problem.target.label[train])
    drawn = strategy.draw(generator(0), labelled, 6000)
    share = np.bincount(labelled.label[drawn]) / 6000
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)
    assert set(problem.unit[train][drawn]) == set(problem.unit[train])
    assert not set(problem.unit[train]) & set(problem.unit[problem.test_rows(0)])


def test_only_leaves_the_other_items_out_of_fitting_and_scoring(traces: Path) -> None:
    problem = problem_of(opened(traces), "all", "noise=0.2")
    rows = np.concatenate([problem.test_rows(fold) for fold in problem.folds])
    assert set(problem.items.table["noise"].iloc[rows]) == {0.2}
    assert len(rows) == 6 * CELLS
    for wrong, message in (("noise=7", "no item has noise=7; values: 0.02, 0.2"), ("colour=1", "COLUMN=VALUE")):
        with pytest.raises(ConfigError, match=message):
            problem_of(opened(traces), "all", wrong)
