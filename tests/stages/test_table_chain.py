"""Tables: targets and folds, and known answers of the whole chain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_tables import QUICK, branch_of, learn, saved

from cellvision import embed, plan
from cellvision.commandline.cli import main
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError
from cellvision.evidence import independence, splits, targets

# -- targets and folds --


def test_targets_of_a_table(tmp_path: Path) -> None:
    table = {
        "x": range(8),
        "y": ["a", "a", "b", "b", "rare", None, "a", "b"],
        "one": "same",
        "code": [1, 2, None] + [1] * 4 + [2],
    }
    items = branch_of(saved(tmp_path / "t.csv", **table), "y", "code").items
    with pytest.raises(ConfigError, match="one class, 'same'"):
        targets.read(items, "one")
    found = targets.read(items, "y")
    assert found.label.tolist() == [0, 0, 1, 1, -1, -1, 0, 1]
    assert targets.read(items, "code").classes == ("1", "2")


def test_a_class_with_one_row_takes_no_part_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    y = ["a", "b"] * 10 + ["rare"]
    path = saved(tmp_path / "t.csv", x=rng.normal(size=21), z=rng.normal(size=21), y=y, donor=np.arange(21) // 2)
    how = {"encoder": "mlp-8", "target": "y", "unit": "donor", "loop": {"steps": 2}, "baselines": False}
    found = learn(path, tmp_path / "run", **how)
    assert (found["left_out"], found["not_evaluated"]) == (["rare"], [])
    assert "finetune: left out, fewer than 2 items: rare; --min-examples 1 keeps them" in capsys.readouterr().err
    found = learn(path, tmp_path / "told", **how, min_examples=1)
    assert (found["left_out"], found["not_evaluated"]) == ([], ["rare"])
    assert found["scored"] == 20


def test_rows_without_a_unit_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.csv", x=[1.5, 2, 3], donor=["d1", None, "d2"])
    with pytest.raises(ConfigError, match="1 items get no unit"):
        independence.unit_column(branch_of(path).items, "donor")


def test_one_unit_is_left_out_at_a_time(tmp_path: Path) -> None:
    drug = np.repeat(["a1", "a2", "b1", "b2", "c1"], 3)
    path = saved(tmp_path / "t.csv", x=np.arange(15) + 0.5, drug=drug, moa=[name[0] for name in drug])
    command = ["--items", str(path), "--branch", "tabular", "--set", "branch.group=moa", "--unit", "drug"]
    assert main("plan", [*command, "--folds", "units", "--out", str(tmp_path / "plan")]) == 0
    table = pd.read_csv(tmp_path / "plan" / "splits.csv")
    assert table.groupby("unit")["fold"].first().to_dict() == {"a1": 0, "a2": 1, "b1": 2, "b2": 3, "c1": -1}
    claims = files.read_json(tmp_path / "plan" / "plan.json")["claims"]
    assert "cannot be evaluated (fewer than two units): c" in claims
    assert main("plan", [*command, "--folds", "1", "--out", str(tmp_path / "bad")]) == 4


def test_numeric_units_and_formulas_pass_through_splits(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "t.csv", x=np.arange(8) + 0.5, donor=np.arange(8) // 2, group=["=1+1", "=1+1", "@x", "@x"] * 2
    )
    given = build(plan.Config, {"items": path, "branch": "tabular", "unit": "donor"})
    plan.run(given, tmp_path / "plan")
    assert "'=1+1" in (tmp_path / "plan" / "splits.csv").read_text()
    made = splits.read(tmp_path / "plan")
    assert set(made.table["group"]) == {"=1+1", "@x"}
    assert set(made.table["unit"]) == {"0", "1", "2", "3"}
    branch = branch_of(path, "donor")
    assert made.content == splits.make(branch.items, independence.unit_column(branch.items, "donor")).content


# -- known answers --


def test_breast_cancer_is_told_as_well_as_by_logistic_regression(tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    path = saved(tmp_path / "cancer.csv", **data.frame.rename(columns={"target": "benign"}))
    table = f"--items {path} --branch tabular --unit row"
    assert main("plan", [*table.split(), "--folds", "2", "--out", str(tmp_path / "plan")]) == 0
    command = f"{table} --splits {tmp_path / 'plan'} --target benign --encoder mlp-32-16 --tune whole"
    given = [*command.split(), "--steps", "80", "--lr", "0.01", "--workers", "0", "--out", str(tmp_path / "run")]
    assert main("finetune", given) == 0
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["stamps"] == ["rows assumed independent"]
    assert found["balanced_accuracy"] > 0.94
    assert abs(found["balanced_accuracy"] - found["baseline_logistic"]) < 0.03
    assert found["scored"] == 569


def test_embed_probes_an_untrained_encoder_in_every_fold(table: Path, tmp_path: Path) -> None:
    given = {"items": table, "branch": "tabular", "unit": "donor", "target": "y", "encoder": "linear"} | QUICK
    embed.run(build(embed.Config, given), tmp_path / "run")
    found = files.read_json(tmp_path / "run" / "metrics.json")
    assert found["linear_balanced_accuracy"] > 0.9
    assert found["baseline_logistic"] > 0.9
    assert found["above_logistic_low"] <= found["above_logistic"] <= found["above_logistic_high"]
    assert "baseline_forest" not in found, "the probe's own kind of model stands beside it, and no other"
