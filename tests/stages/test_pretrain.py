"""pretrain: the held-out fold stays unseen."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tiny_runs import metrics_of

from cellvision.core import files


def test_pretrain_leaves_the_held_out_fold_alone(pretrained: Path, planned: Path, cells: Path) -> None:
    card, found = files.read_json(pretrained / "encoder" / "encoder.json"), metrics_of(pretrained)
    table = pd.read_csv(planned / "splits.csv")
    assert set(card["units"]) == set(table[table["fold"] != 0]["unit"])
    hashes = pd.read_parquet(cells / "cells.parquet").groupby("source_id")["source_hash"].first()
    assert set(card["seen"]) == set(hashes[table[table["fold"] != 0]["source_id"]])
    assert found["steps"] == card["steps_total"] == len(pd.read_parquet(pretrained / "curves.parquet")) == 3
    assert {"knn", "rank", "identity", "loss", "chance"} <= set(found)
    assert not (pretrained / "checkpoints").exists()
