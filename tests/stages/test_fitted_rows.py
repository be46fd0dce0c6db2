"""No score knows what a preprocessing has learned of the rows that it is tested on.

The table is noise, and its preprocessing gives away the label of every row it was fitted to, and of no other. A stage
that fits to a row and tests on it scores nearly 1; an honest one is at chance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tiny_runs import metrics_of, run

from cellvision import ablate, embed, finetune, importance, pretrain
from cellvision.branches import Augment, State
from cellvision.branches.tabular.branch import TabularBranch

DONORS, EACH, LOUD = 12, 8, 40.0
CHANCE = pytest.approx(0.5, abs=0.25)
LOOP = {"steps": 40, "batch": 32, "lr": 0.01}


@pytest.fixture
def traitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of a stage whose preprocessing betrays the labels of the rows it was fitted to."""
    rows = DONORS * EACH
    label = np.random.default_rng(0).permutation(np.arange(rows) % 2)
    table = pd.DataFrame(np.random.default_rng(1).normal(size=(rows, 5)), columns=list("abcde"))
    table.assign(donor=[f"d{row // EACH}" for row in range(rows)], y=label).to_csv(tmp_path / "t.csv", index=False)
    fit, batch = TabularBranch.fit, TabularBranch.batch

    def fit_and_remember(self: TabularBranch, fitted: NDArray[np.int64]) -> State:
        return fit(self, fitted) | {"fitted": np.asarray(fitted)}

    def tell(
        self: TabularBranch, shown: NDArray[np.int64], state: State, augment: Augment | None = None
    ) -> NDArray[np.float32]:
        values = batch(self, shown, state, augment)
        betrayed = np.isin(shown, state["fitted"])
        values[:, 0] = np.where(betrayed, LOUD * (2 * label[shown] - 1), values[:, 0])
        return values

    monkeypatch.setattr(TabularBranch, "fit", fit_and_remember)
    monkeypatch.setattr(TabularBranch, "batch", tell)
    branch = {"name": "tabular", "clip": 2 * LOUD, "exclude": ["y"]}
    return {"items": tmp_path / "t.csv", "branch": branch, "unit": "donor", "target": "y", "encoder": "linear"}


def pretrained(traitor: dict[str, Any], out: Path) -> str:
    options = {name: value for name, value in traitor.items() if name != "target"}
    return str(run(pretrain, out, **options, fold="0", probes=1, loop=LOOP))


@pytest.mark.parametrize("trained", [False, True], ids=["untrained", "pretrained"])
def test_probes_of_an_embedding_are_at_chance(traitor: dict[str, Any], tmp_path: Path, trained: bool) -> None:
    if trained:
        traitor["encoder"] = pretrained(traitor, tmp_path / "pretrain")
    found = metrics_of(run(embed, tmp_path / "run", **traitor))
    assert found["folds_probed"] == (1 if trained else 5)
    assert found["linear_balanced_accuracy_low"] < 0.5
    assert found["knn_balanced_accuracy_low"] < 0.5


def test_a_classifier_and_its_probe_are_at_chance_and_a_split_by_item_is_not(
    traitor: dict[str, Any], tmp_path: Path
) -> None:
    found = metrics_of(run(finetune, tmp_path / "run", **traitor, loop=LOOP))
    assert found["balanced_accuracy"] == CHANCE
    assert found["probe_unit_out"] == CHANCE
    assert found["probe_item_random"] > 0.8  # what the trap is worth where it is stepped into


def test_features_are_ranked_at_chance(traitor: dict[str, Any], tmp_path: Path) -> None:
    options = {name: value for name, value in traitor.items() if name != "encoder"}
    found = metrics_of(run(importance, tmp_path / "run", **options, repeats=1))
    assert found["balanced_accuracy"] == CHANCE


def test_arms_and_the_probe_of_an_ablation_are_at_chance(traitor: dict[str, Any], tmp_path: Path) -> None:
    options = {name: value for name, value in traitor.items() if name != "encoder"}
    recipe = {"own": {"encoder": "linear", "loop": LOOP, "probes": 1}}
    arms = {"frozen": {}, "whole": {"tune": "whole"}, "untrained": {"encoder": "linear"}}
    base = {"encoder": "pretrain:own", "loop": LOOP}
    out = run(ablate, tmp_path / "run", **options, folds=3, seeds=[0], arms=arms, base=base, pretrain=recipe)
    found = metrics_of(out)
    assert {arm: found[f"balanced_accuracy {arm}"] for arm in arms} == dict.fromkeys(arms, CHANCE)
    assert found["probe_encoder"] == "pretrain:own"
    assert found["probe_unit_out"] == CHANCE
