"""ablate: arms on the same folds, plain models beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_runs import SOURCES, STEPS, run

from cellvision import ablate
from cellvision.branches import BRANCHES
from cellvision.core import progress
from cellvision.core.config import build
from cellvision.evidence import baselines, independence, splits


def test_ablate_compares_arms_on_the_same_folds(ablation: Path) -> None:
    results, summary = pd.read_parquet(ablation / "results.parquet"), pd.read_csv(ablation / "summary.csv")
    ok = results[results["status"] == "ok"]
    assert set(ok["arm"]) == {"test_resnet", "tiny"}
    assert (ok.groupby("arm").size() == 4).all()  # two folds, two seeds
    assert set(results[results["status"] == "refused"]["arm"]) == {"bags"}
    assert summary.set_index("arm").loc["bags", "status"].startswith("refused: strategy 'mil' refused")
    steps = summary.set_index("arm")["steps_total"]
    assert (steps["test_resnet"], steps["tiny"]) == (3, 6)  # pretraining is counted
    assert {"baseline: colour", "baseline: handmade", "baseline: background", "baseline: size"} < set(summary["arm"])
    assert set(summary["units"].dropna()) == {SOURCES}
    difference = pd.read_csv(ablation / "differences.csv").set_index("arm").loc["tiny"]
    assert difference["reference"] == "test_resnet"
    assert difference["difference_low"] <= difference["difference"] <= difference["difference_high"]


def test_ablate_shares_a_pretraining_between_seeds(ablation: Path) -> None:
    names = [path.name.split("-")[0] for path in (ablation / "runs").iterdir()]
    assert names.count("pretrain") == 2  # one a fold
    assert names.count("finetune") == 2 * 2 * 2 + 4


def test_plain_models_have_as_many_labels_as_the_arms(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, fit_predict = [], baselines.fit_predict

    def noted(model: Any, train: Any, label: Any, test: Any, classes: int) -> Any:
        fitted.append(len(train))
        return fit_predict(model, train, label, test, classes)

    monkeypatch.setattr(baselines, "fit_predict", noted)
    out = run(
        ablate, tmp_path / "run", items=cells, folds=2, seeds=[0], factors={"label_fraction": [0.3, 1.0]},
        base={"encoder": "test_resnet", "tune": "linear", "loop": STEPS},
    )  # fmt: skip
    names = {f"baseline: {name}, label fraction {share}" for name in ("colour", "handmade") for share in (0.3, 1.0)}
    assert names < set(pd.read_csv(out / "summary.csv")["arm"])
    assert max(fitted[:8]) < min(fitted[8:16])  # four plain models, two folds


def test_what_a_child_says_names_its_arm_fold_and_seed(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"items": cells, "branch": {"name": "image", "size": 32}, "arms": {"plain": {"encoder": "test_resnet"}}}
    cfg = build(ablate.Config, options | {"device": "cpu"})
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    monkeypatch.setattr(ablate.finetune, "score", lambda job, out: {"balanced_accuracy": 0.5})
    monkeypatch.setattr(ablate.finetune, "report_to_person", lambda out: None)
    items = BRANCHES.build(cfg.branch, path=cells).items
    splits.make(items, independence.unit_column(items), 2).write(tmp_path / "splits.csv")
    child = ablate.Child("plain", {"encoder": "test_resnet", "loop": {"steps": 6, "batch": 16}}, 1, 7)
    ablate.run_child((cfg, child, tmp_path))
    assert "ablate: plain, seed 7: finetune: fold 1: 3/6 steps" in capsys.readouterr().err
