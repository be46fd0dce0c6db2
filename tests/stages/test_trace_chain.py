"""trace: the whole chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sharing import understood
from trace_items import CELLS

from cellvision import ablate, embed, extract, finetune, plan, predict, pretrain, report
from cellvision.core import files
from cellvision.core.config import build
from cellvision.core.errors import ConfigError

LOOP = {"steps": 40, "batch": 48, "lr": 0.01}
COMMON: dict[str, Any] = {"branch": "trace", "workers": 0, "threads": 1, "device": "cpu"}


def run(stage: Any, out: Path, **options: Any) -> Path:
    known = {key: value for key, value in COMMON.items() if key in understood(stage.Config)}
    stage.run(build(stage.Config, known | options), out)
    return out


def metrics_of(out: Path) -> dict[str, Any]:
    return dict(files.read_json(out / "metrics.json"))


def test_traces_go_through_every_verb(traces: Path, tmp_path: Path) -> None:
    items = run(extract, tmp_path / "items", raw=traces)
    planned = run(plan, tmp_path / "plan", items=items, folds=3)
    assert files.read_json(planned / "plan.json")["units"] == 12
    learned = run(
        pretrain, tmp_path / "ssl", items=items, splits=planned, encoder="cnn-8-16", loop={"steps": 6, "batch": 24}
    )
    embedded = metrics_of(
        run(embed, tmp_path / "emb", items=items, splits=planned, encoder=str(learned), target="distance")
    )
    assert embedded["folds_probed"] == 1
    options: dict[str, Any] = {"items": items, "splits": planned, "target": "distance", "tune": "whole", "loop": LOOP}
    tuned = metrics_of(run(finetune, tmp_path / "ft", encoder="cnn-8-16", **options))
    assert tuned["balanced_accuracy"] > 0.7
    assert tuned["balanced_accuracy_units"] == 12
    assert tuned["mean_absolute_error"] < 0.5
    assert tuned["stamps"] == []
    assert {"baseline_kernels", "baseline_summary", "above_kernels_low", "probe_item_random"} <= set(tuned)
    model = run(finetune, tmp_path / "all", encoder=str(learned), fold="none", **options) / "model"
    for new in (traces, items):
        predicted = run(predict, tmp_path / f"new-{new.name}", model=model, items=new)
        assert len(pd.read_parquet(predicted / "predictions.parquet")) == 12 * CELLS


def test_the_study_of_noise_is_one_ablation(traces: Path, tmp_path: Path) -> None:
    out = run(
        ablate, tmp_path / "run", items=traces, target="distance", by="noise", folds=2, seeds=[0],
        base={"tune": "whole", "encoder": "cnn-8-16", "loop": LOOP},
        arms={"global": {}, "ordinal": {"strategy": "ordinal"}, "noise 0.2 alone": {"only": "noise=0.2"}},
    )  # fmt: skip
    by, summary_table = pd.read_csv(out / "by.csv"), pd.read_csv(out / "summary.csv")
    alone = by[by["arm"] == "noise 0.2 alone"]
    assert alone["noise"].tolist() == [0.2]
    whole = by[by["arm"] == "global"].set_index("noise")
    assert whole["scored"].to_dict() == {0.02: 6 * CELLS, 0.2: 6 * CELLS}
    assert whole["balanced_accuracy"][0.02] > whole["balanced_accuracy"][0.2]
    assert {"baseline: kernels", "baseline: summary"} <= set(by["arm"])
    assert summary_table["mean_absolute_error"].notna().all()
    differences = pd.read_csv(out / "differences.csv").set_index("arm")
    assert differences.loc["noise 0.2 alone", "difference_units"] == 6
    assert (out / "by.png").exists()
    report.write(out, tmp_path / "report.html")
    assert "noise 0.2 alone" in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(ConfigError, match="no column 'colour'"):
        run(ablate, tmp_path / "no", items=traces, target="distance", by="colour", arms={"a": {}})
