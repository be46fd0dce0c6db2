"""The nested check: who is held out of what, what may choose an arm, and that it goes on where it stopped."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cellvision.core.errors import ConfigError

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
import nested

CONFIG = """
branch: {name: tabular, group: kind}
target: kind
unit: donor
folds: units
seeds: [0]
base: {encoder: linear, tune: whole, loop: {steps: 12, batch: 16, lr: 0.3}}
arms:
  all features: {}
  noise alone: {branch.exclude: [size]}
"""


def rows(arm: str, held: str, unit: str, right: bool) -> dict[str, object]:
    """One scored row; a unit's class is its first letter."""
    guess = unit[0] if right else "-"
    return {"arm": arm, "held": tuple(held.split()), "unit": unit, "truth": unit[0], "predicted": guess, "key": unit}


def test_the_outer_unit_has_no_say_in_the_choice() -> None:
    """Arm `b` is right wherever `a1` is held out beside another, `a` only on the outer unit `a1` itself."""
    units = ["a1", "a2", "b1", "b2"]
    table = [rows(arm, unit, unit, arm == "a") for arm in "ab" for unit in units]
    for arm in "ab":
        for first, second in itertools.combinations(units, 2):
            for unit in (first, second):
                right = unit == "a1" if arm == "a" else unit != "a1"
                table.append(rows(arm, f"{first} {second}", unit, right))
    chosen, choices = nested.choose(pd.DataFrame(table), ["b", "a"])
    found = choices.set_index("unit")
    assert found.loc["a1", ["a", "b"]].tolist() == [0, 1]
    assert found["chosen"].tolist() == ["b"] * 4, "the first of equals where a1 speaks for `a` and a2 for `b`"
    assert (chosen["predicted"] == "-").all(), "the outer score is the chosen arm's, bad as it may be"
    assert found["inner_units"].tolist() == [2] * 4, "a2 cannot be scored without a1: no unit of its class is left"


def test_choosing_nothing_when_no_class_is_left() -> None:
    table = [rows("a", held, unit, True) for held in ("a1", "b1", "a1 b1") for unit in held.split()]
    with pytest.raises(ConfigError, match="no class has two units left"):
        nested.choose(pd.DataFrame(table), ["a"])


def test_a_tiny_table_is_checked_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    donor = np.arange(36) // 6
    kind = donor % 2
    pd.DataFrame(
        {"donor": donor, "kind": np.where(kind, "x", "y"), "size": kind + rng.normal(0, 0.1, 36),
         "noise": rng.normal(size=36), "more": rng.normal(size=36)}
    ).to_csv(tmp_path / "t.csv", index=False)  # fmt: skip
    (tmp_path / "c.yaml").write_text(CONFIG)
    out = tmp_path / "out"
    command = [f"--{key}={tmp_path / name}" for key, name in (("config", "c.yaml"), ("items", "t.csv"), ("out", "out"))]
    command.append("--workers=1")
    assert nested.main(command) == 0
    parts = sorted((out / "parts").iterdir())
    assert len(parts) == 2 * 6 * 7 / 2
    choices = pd.read_csv(out / "choices.csv")
    assert choices["chosen"].tolist() == ["all features"] * 6
    summary = pd.read_csv(out / "summary.csv").set_index("arm")
    assert summary.loc[nested.CHOSEN, ["balanced_accuracy", "units", "scored"]].tolist() == [1, 6, 36]
    assert summary.loc["noise alone", "balanced_accuracy"] < 0.8
    differences = pd.read_csv(out / "differences.csv")
    assert set(differences["reference"]) == {nested.LOGISTIC}

    trained = []
    original = nested.train

    def counted(task: Any) -> Any:
        trained.append(task)
        return original(task)

    monkeypatch.setattr(nested, "train", counted)
    parts[3].unlink()
    assert nested.main(command) == 0
    assert len(trained) == 1
    assert pd.read_csv(out / "choices.csv").equals(choices)
    assert nested.main([*command, "--arms=none such"]) == 4
