"""Every branch goes through the same commands: plan, pretrain, embed, finetune, predict, ablate, report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

from cellvision.__main__ import dispatch
from cellvision.branches import BRANCHES
from cellvision.core import files


@pytest.mark.parametrize("name", BRANCHES.names())
def test_the_same_commands_work_for_every_branch(name: str, tmp_path: Path) -> None:
    sample = BRANCHES.load(name).sample(tmp_path)
    options = ("--unit", sample.unit) if sample.unit else ()
    for key, value in sample.options.items():
        options = (*options, "--set", f"branch.{key}={value}")
    quick = ("--workers", "0", "--threads", "1", "--device", "cpu")

    def call(stage: str, *more: str, out: str) -> Path:
        command = (stage, "--items", str(sample.items), "--branch", name, *options, *more)
        assert dispatch([*command, "--out", str(tmp_path / out)]) == 0, stage
        assert files.read_json(tmp_path / out / "run.json")["status"] == "done"
        return tmp_path / out

    splits = ("--splits", str(call("plan", "--folds", "2", out="plan")))
    train = (*splits, *quick, "--steps", "3", "--batch", "16")
    ssl = call("pretrain", *train, "--fold", "0", "--encoder", sample.encoder, out="ssl")
    learn = ("--target", sample.target)
    call("embed", *splits, *quick, *learn, "--encoder", str(ssl), out="embedding")
    tuned = call("finetune", *train, *learn, "--encoder", sample.encoder, "--tune", "whole", out="tuned")
    scored = pd.read_parquet(tuned / "predictions.parquet")
    found = files.read_json(tuned / "metrics.json")
    assert scored["item_id"].is_unique
    assert set(scored["fold"]) == {0, 1}
    assert any(key.startswith("above_") for key in found)
    bundle = call("finetune", *train, *learn, "--fold", "none", "--encoder", str(ssl), out="bundle") / "model"
    again = tmp_path / "predicted"
    assert dispatch(["predict", "--model", str(bundle), "--items", str(sample.items), *quick, "--out", str(again)]) == 0
    predicted = pd.read_parquet(again / "predictions.parquet")
    assert set(scored["item_id"]) <= set(predicted["item_id"])
    assert files.read_json(again / "metrics.json")["sources_seen_in_training"] == predicted["source_id"].nunique()
    recipe = {
        "base": {"encoder": sample.encoder, "loop": {"steps": 2, "batch": 16}}, "seeds": [0],
        "factors": {"encoder": [sample.encoder, "pretrain:tiny"]},
        "pretrain": {"tiny": {"encoder": sample.encoder, "loop": {"steps": 2, "batch": 16}, "probes": 1}},
    }  # fmt: skip
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(recipe))
    config = ("--config", str(tmp_path / "ablation.yaml"), "--folds", "2")
    arms = call("ablate", *config, *splits, *quick, *learn, out="ablation")
    assert {sample.encoder, "tiny"} < set(pd.read_csv(arms / "summary.csv")["arm"])
    for run in ("plan", "ssl", "embedding", "tuned", "predicted", "ablation"):
        assert dispatch(["report", str(tmp_path / run), "--out", str(tmp_path / f"{run}.html")]) == 0
        assert "<html" in (tmp_path / f"{run}.html").read_text("utf-8")
