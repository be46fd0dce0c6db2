"""pretrain: the held-out fold stays unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny_runs import metrics_of

from cellvision.branches import BRANCHES
from cellvision.core import files
from cellvision.evidence import seen
from cellvision.models import encoders


def test_pretrain_leaves_the_held_out_fold_alone(pretrained: Path, planned: Path, cells: Path) -> None:
    card, found = files.read_json(pretrained / "encoder" / "encoder.json"), metrics_of(pretrained)
    table = pd.read_csv(planned / "splits.csv")
    trained = table[table["fold"] != 0]
    assert card["seen"] == {"sources": len(trained), "units": trained["unit"].nunique(), "unknown": []}
    branch = BRANCHES.build({"name": "image"}, path=cells)
    fold, unit = (branch.items.table["source_id"].map(table.set_index("source_id")[name]) for name in ("fold", "unit"))
    history = encoders.resolve(str(pretrained), branch, np.arange(1), 0).seen
    for number, count in ((0, 0), (1, len(trained))):
        rows = np.flatnonzero(fold == number)
        assert seen.overlap(history, branch.items, unit.to_numpy(str), rows).count == count
    assert found["steps"] == card["steps_total"] == len(pd.read_parquet(pretrained / "curves.parquet")) == 3
    assert {"knn", "rank", "identity", "loss", "chance"} <= set(found)
    assert not (pretrained / "checkpoints").exists()
