"""A small fusion: simulated crops, and a table of them that tells the group, lacks every fifth and has three more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellvision.branches import BRANCHES, Sample
from cellvision.core import files

APART = 3.0  # standard deviations between the groups
SHIFT = 50.0  # of the numbers of the other half


def write(folder: Path, other_half: bool) -> Sample:
    """fusion.yaml, measured.csv and the image branch's own sample."""
    import pandas as pd

    crops = BRANCHES.load("image").sample(folder, other_half)
    cells = files.read_parquet(crops.items / "cells.parquet")
    kept = cells[np.arange(len(cells)) % 5 > 0]
    added = kept.head(3).assign(item_id=["only0", "only1", "only2"])
    table = pd.concat([kept, added], ignore_index=True)[["item_id", "unit", "group", "source_hash"]]
    code = table["group"].astype("category").cat.codes.to_numpy()
    numbers = np.random.default_rng(0).normal(size=(len(table), 3)).round(3)
    numbers[:, :2] += APART * np.stack([code % 2, code // 2], axis=1)
    numbers[table.pop("source_hash").str.endswith("True")] += SHIFT
    measured = dict(zip(("size", "stain", "noise"), numbers.T, strict=True))
    table.rename(columns={"item_id": "cell"}).assign(**measured).to_csv(folder / "measured.csv", index=False)
    image = {"items": crops.items.name, "branch": {"name": "image", **crops.options}}
    parts = {"image": image, "table": {"items": "measured.csv", "branch": {"name": "tabular"}, "key": "cell"}}
    files.write_json(folder / "fusion.yaml", {"parts": parts})  # JSON is YAML
    return Sample(folder / "fusion.yaml", "group", f"late:image={crops.encoder}+table=mlp-16-8")
